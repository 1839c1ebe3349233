// socket.io on Bun: bun server.js [--verify]
"use strict";

const { Server: Engine } = require("@socket.io/bun-engine");
const { Server } = require("socket.io");
const { serve, listening, MAX_MESSAGE_BYTES, VERIFY } = require("../application.js");

const io = new Server();
const engine = new Engine({ path: "/socket.io/", maxHttpBufferSize: MAX_MESSAGE_BYTES });
io.bind(engine);
const figures = serve(io, VERIFY);
const handler = engine.handler();
const server = Bun.serve({
  ...handler,
  fetch(request, server) {
    if (new URL(request.url).pathname === "/figures") {
      return Response.json(figures);
    }
    return handler.fetch(request, server);
  },
  port: 0,
  hostname: "127.0.0.1",
});
listening("bun", server.port);
