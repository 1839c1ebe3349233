"""Pages and the API, on the same port as the cameras."""
