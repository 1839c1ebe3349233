// The talker of tests/clients/test_talkers.py, on any generation of npm's socket.io-client.
"use strict";

const { TRANSPORTS, say, next, play } = require("./play");

const [library, url, transport, text] = process.argv.slice(2);
const io = require(library);

const BYTES = Buffer.from(Array.from({ length: 256 }, (_, value) => value));

function open(namespace, transports, options) {
  return io(url + namespace, Object.assign({ transports: TRANSPORTS[transports], forceNew: true }, options));
}

// Bytes as something that JSON can carry.
function shown(value) {
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
    return { bytes: Buffer.from(value).toString("hex") };
  }
  if (Array.isArray(value)) {
    return value.map(shown);
  }
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, shown(inner)]));
  }
  return value;
}

async function hear(socket, event) {
  say(event, { args: shown(await next(socket, event)) });
}

async function talk() {
  const socket = open("", transport);
  const other = open("", transport === "polling" ? "websocket" : "polling");
  await Promise.all([hear(socket, "welcome"), next(other, "welcome")]);

  const echoed = [text, { number: 1.5, bytes: BYTES, list: [Buffer.from([255]), null, true] }];
  say("echo", { args: shown(await new Promise((resolve) => socket.emit("echo", ...echoed, (...args) => resolve(args)))) });

  socket.once("ask", (bytes, answer) => answer(Buffer.from(bytes).reverse(), text));
  const heard = hear(socket, "you said");
  socket.emit("ask me");
  await heard;

  const told = Promise.all([next(socket, "told"), next(other, "told")]);
  socket.emit("tell everybody", BYTES);
  say("told", { args: shown((await told).flat()) });

  // In protocol 4 a namespace is asked for with a query, in protocol 5 with `auth`.
  const cam = open("/cam?token=abc", transport, { auth: { token: "abc" } });
  await hear(cam, "token");
  const denied = open("/deny", transport, { reconnection: false });
  const [why] = await Promise.race(["error", "connect_error"].map((event) => next(denied, event)));
  say("denied", { code: (why.data || why).code });

  [socket, other, cam, denied].forEach((each) => each.disconnect());
}

play(talk);
