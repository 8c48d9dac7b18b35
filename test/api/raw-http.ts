/** A client without manners: it can hang up at any moment and stop reading, which fetch cannot be made to do alike in Node and Deno. @module */
import { connect, type Socket } from 'node:net';

export type RawRequest = { readonly socket: Socket; received(): string };

export const rawPost = (port: number, path: string, body: object): Promise<RawRequest> => {
  const text = JSON.stringify(body);
  return rawText(port, path, text, Buffer.byteLength(text));
};

/** `announced`: more bytes than the text has are never sent. */
export async function rawText(port: number, path: string, text: string, announced: number): Promise<RawRequest> {
  const socket = connect(port, '127.0.0.1');
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  let received = '';
  socket.on('error', () => {});
  socket.on('data', (data: Buffer) => {
    received += data.toString('latin1');
  });
  socket.write(`POST ${path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: ${announced}\r\n\r\n${text}`);
  return { socket, received: () => received };
}
