/** What serve() needs of a runtime: somewhere to listen. @module */

export type FetchHandler = (request: Request) => Response | Promise<Response>;

export type Listener = {
  readonly port: number;
  /** Takes no new connections; resolves when the last one has ended. */
  close(): Promise<void>;
  /** Ends the connections on which nothing is under way. */
  closeIdle(): void;
  /** Ends all connections, whatever they carry. */
  destroy(): void;
};

export type Listen = (options: { readonly host: string; readonly port: number; readonly fetch: FetchHandler }) => Promise<Listener>;
