"""HTTP/1 as this server speaks it: requests read strictly and within deadlines, on eventlet's sockets."""
