"""The cameras that are pulled: they register themselves or are listed, and the server fetches image after image."""
