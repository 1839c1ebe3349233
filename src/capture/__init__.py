"""The child process that receives a camera's video over RTSP, and what it and the server say to each other."""
