// socket.io on Node, with ws and bufferutil: node server.js [--verify]
"use strict";

const { createServer } = require("node:http");
const { Server } = require("socket.io");
const { serve, listening, MAX_MESSAGE_BYTES, VERIFY } = require("../application.js");

require("bufferutil"); // ws goes on without it in silence, and unmasks in JavaScript

const http = createServer((request, response) => {
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify(figures));
});
const io = new Server(http, {
  allowEIO3: true,
  maxHttpBufferSize: MAX_MESSAGE_BYTES,
  perMessageDeflate: false,
});
const figures = serve(io, VERIFY);
http.listen({ port: 0, host: "127.0.0.1", backlog: 1024 }, () => listening("node", http.address().port));
