/** What the network card needs of a runtime: connections that carry bytes in order. @module */

export type Stream = {
  /** False: the other side reads too slowly, wait for `onDrain`. The bytes are the stream's from now on. */
  write(bytes: Uint8Array): boolean;
  /** The bytes are the receiver's until it returns. */
  onData(receive: (bytes: Uint8Array) => void): void;
  onDrain(act: () => void): void;
  /** Once, whoever ended it; nothing is received after it. */
  onClose(act: () => void): void;
  pause(): void;
  resume(): void;
  destroy(): void;
};

export type Listening = { readonly port: number; close(): Promise<void> };
export type Network = {
  /** On this machine; `port` 0: any that is free. */
  listen(port: number, accept: (stream: Stream) => void): Promise<Listening>;
  /** Resolves when it is connected. @throws what the runtime throws where nobody listens. */
  connect(port: number): Promise<Stream>;
};
