// What both JavaScript servers do: let everybody in, count the frames, and acknowledge those that ask for it.
"use strict";

const { crc32 } = require("node:zlib");

// With `verify` the CRC-32s of all images are added up, which costs more than taking them.
exports.serve = (io, verify) => {
  const figures = { frames: 0, bytes: 0, crcs: 0 };
  io.on("connection", (socket) => {
    let seq = 0;
    socket.on("authenticate", (user, password, event) => socket.emit(event, true));
    socket.on("receiveImage", (image, acknowledge) => {
      seq += 1;
      figures.frames += 1;
      figures.bytes += image.byteLength;
      if (verify) {
        figures.crcs += crc32(image);
      }
      if (acknowledge) {
        acknowledge({ accepted: true, seq });
      }
    });
  });
  return figures;
};

exports.MAX_MESSAGE_BYTES = 16e6;
exports.VERIFY = process.argv.includes("--verify");

exports.listening = (name, port) => console.log(`${name} listening on http://127.0.0.1:${port}`);
