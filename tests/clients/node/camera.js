// The camera of tests/clients/test_cameras.py, on any generation of npm's socket.io-client.
"use strict";

const crypto = require("crypto");
const fs = require("fs");
const path = require("path");
const { TRANSPORTS, say, next, play } = require("./play");

const [library, url, transport, folder, user, password] = process.argv.slice(2);
const io = require(library);

const BURST = 20;
const IMAGES_AFTER_RETURN = 10;
const RESULT_EVENT = "onResult";

function open(options) {
  return io(url, Object.assign({ transports: TRANSPORTS[transport], forceNew: true }, options));
}

// The result event, if any, is the second argument.
function send(socket, image, ...event) {
  return new Promise((resolve) => socket.emit("receiveImage", image, ...event, resolve));
}

async function sendInTurn(socket, images, ...event) {
  const answers = [];
  for (const image of images) {
    answers.push(await send(socket, image, ...event));
  }
  return answers;
}

// All results, in the order in which they come; of a picture its digest.
function hearResults(socket) {
  const results = [];
  for (const name of ["result", RESULT_EVENT]) {
    socket.on(name, (result, about) => {
      if (Buffer.isBuffer(result)) {
        result = { sha256: crypto.createHash("sha256").update(result).digest("hex") };
      }
      results.push({ name, result, about });
    });
  }
  return results;
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

async function stream() {
  const refused = beRefused();
  const images = fs.readdirSync(folder).sort().map((name) => fs.readFileSync(path.join(folder, name)));
  const socket = open({ reconnectionAttempts: 10, reconnectionDelay: 200, randomizationFactor: 0 });
  const callbacks = [];
  socket.on("onAuthentication", (...args) => callbacks.push(args));
  const results = hearResults(socket);

  await next(socket, "connect");
  const error = next(socket, "serverError");
  say("before login", { answer: await send(socket, images[0]) });
  say("serverError", { code: (await error)[0] });
  let answered = next(socket, "onAuthentication");
  socket.emit("authenticate", user, password, "onAuthentication");
  await answered;
  say("login", { callbacks });
  const half = images.length / 2;
  const answers = await sendInTurn(socket, images.slice(0, half));
  answers.push(...(await sendInTurn(socket, images.slice(half), RESULT_EVENT)));
  say("streamed", {
    answers,
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
  say("results", { results });
  socket.disconnect();
}

play(stream);
