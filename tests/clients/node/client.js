// The camera of tests/clients/test_real_clients.py, on any generation of npm's socket.io-client.
"use strict";

const fs = require("fs");
const path = require("path");

const [library, url, transport, folder, user, password] = process.argv.slice(2);
const io = require(library);

const TRANSPORTS = { polling: ["polling"], websocket: ["websocket"], upgrade: ["polling", "websocket"] };
const BURST = 20;
const IMAGES_AFTER_RETURN = 10;

function say(event, what) {
  console.log(JSON.stringify(Object.assign({ event }, what)));
}

function open(options) {
  return io(url, Object.assign({ transports: TRANSPORTS[transport], forceNew: true }, options));
}

function next(socket, event) {
  return new Promise((resolve) => socket.once(event, (...args) => resolve(args)));
}

function send(socket, image) {
  return new Promise((resolve) => socket.emit("receiveImage", image, resolve));
}

async function sendInTurn(socket, images) {
  const answers = [];
  for (const image of images) {
    answers.push(await send(socket, image));
  }
  return answers;
}

async function beRefused() {
  const socket = open({ reconnection: false });
  const callbacks = [];
  let refused_at;
  socket.on("onAuthentication", (...args) => {
    callbacks.push(args);
    refused_at = Date.now();
  });
  socket.on("connect", () => socket.emit("authenticate", user, password + "x", "onAuthentication"));
  await next(socket, "disconnect");
  say("wrong login", { callbacks, disconnected_after_sec: (Date.now() - refused_at) / 1000 });
}

async function stream(refused) {
  const images = fs.readdirSync(folder).sort().map((name) => fs.readFileSync(path.join(folder, name)));
  const socket = open({ reconnectionAttempts: 10, reconnectionDelay: 200, randomizationFactor: 0 });
  const callbacks = [];
  socket.on("onAuthentication", (...args) => callbacks.push(args));
  socket.on("serverError", (code, message) => say("serverError", { code, message }));
  socket.on("setRate", (hz) => say("setRate", { hz }));

  await next(socket, "connect");
  say("before login", { answer: await send(socket, images[0]) });
  let answered = next(socket, "onAuthentication");
  socket.emit("authenticate", user, password, "onAuthentication");
  await answered;
  say("login", { callbacks });
  say("streamed", {
    answers: await sendInTurn(socket, images),
    transport: (socket.io.engine || socket.io).transport.name,
  });
  say("burst", { answers: await Promise.all(images.slice(0, BURST).map((image) => send(socket, image))) });

  await refused;
  const dropped = next(socket, "disconnect");
  const returned = next(socket, "connect");
  say("ready to be dropped");
  await dropped;
  await returned;
  answered = next(socket, "onAuthentication");
  socket.emit("authenticate", user, password, "onAuthentication");
  await answered;
  say("login after return", { callbacks });
  say("streamed after return", { answers: await sendInTurn(socket, images.slice(0, IMAGES_AFTER_RETURN)) });
  socket.disconnect();
}

// Whoever has nothing left to do ends by itself; a connection that stays behind would keep the process alive.
stream(beRefused()).then(
  () => say("done"),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
