"""The Socket.IO server itself: Engine.IO 3 beside 4, WebSocket on green sockets, strict packets."""
