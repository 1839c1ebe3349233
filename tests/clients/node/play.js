// What the plays have in common.
"use strict";

const TRANSPORTS = { polling: ["polling"], websocket: ["websocket"], upgrade: ["polling", "websocket"] };

function say(event, what) {
  console.log(JSON.stringify(Object.assign({ event }, what)));
}

// The arguments of the next event of this name.
function next(socket, event) {
  return new Promise((resolve) => socket.once(event, (...args) => resolve(args)));
}

// Whoever has nothing left to do ends by itself; a connection that stays behind would keep the process alive.
function play(acts) {
  acts().then(
    () => say("done"),
    (error) => {
      console.error(error);
      process.exit(1);
    },
  );
}

module.exports = { TRANSPORTS, say, next, play };
