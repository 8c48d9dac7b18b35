/** node:net, on Node and on Deno: TCP on this machine, a stand-in for RoCE between machines. @module */
import { createServer, connect as openSocket, type Socket } from 'node:net';
import type { Network, Stream } from '../stream.ts';

const HOST = '127.0.0.1';

function streamOf(socket: Socket): Stream {
  socket.setNoDelay(true);
  // An error is followed by a close, which says all that matters.
  socket.on('error', () => {});
  return {
    write: (bytes) => socket.write(bytes),
    onData: (receive) => void socket.on('data', receive),
    onDrain: (act) => void socket.on('drain', act),
    onClose: (act) => void socket.once('close', act),
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    destroy: () => void socket.destroy(),
  };
}

export const nodeNet: Network = {
  listen: (port, accept) =>
    new Promise((resolve, reject) => {
      const server = createServer((socket) => accept(streamOf(socket)));
      server.once('error', reject);
      server.listen(port, HOST, () => {
        const address = server.address();
        resolve({
          port: typeof address === 'object' && address !== null ? address.port : port,
          close: () => new Promise((done) => server.close(() => done())),
        });
      });
    }),
  connect: (port) =>
    new Promise((resolve, reject) => {
      const socket = openSocket(port, HOST);
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(streamOf(socket));
      });
    }),
};
