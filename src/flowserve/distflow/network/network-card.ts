/**
 * The loop of a thread that is a network card: what others ask of this side's memory comes by its event loop, what this side's pullers post by its bell.
 * @module
 */
import type { ControlPage } from '../../../fabric/control-page.ts';
import { breathe, EventLoopSleeper, keepAwake } from '../../../runtime/event-loop.ts';
import type { CardClient } from './card-client.ts';
import type { CardServer } from './card-server.ts';

/** A bell that was missed is made good for after so long. */
const SLEEP_MS = 50;
/** Turns of the event loop without work before it sleeps: an answer mostly brings the next request within microseconds. */
const IDLE_TURNS = 64;

export class NetworkCard {
  readonly #control: ControlPage;
  readonly #thread: number;
  readonly #client: CardClient;
  readonly #server: CardServer;

  /** `thread`: whose bell the pullers ring (`ControlPage.ring`), and whose stop word ends it. */
  constructor(control: ControlPage, thread: number, client: CardClient, server: CardServer) {
    this.#control = control;
    this.#thread = thread;
    this.#client = client;
    this.#server = server;
  }

  /** Until its thread is told to stop; the last that it writes is the acknowledgement. */
  async run(): Promise<void> {
    using _awake = keepAwake();
    const sleeper = new EventLoopSleeper(this.#control, this.#thread);
    const hasWork = (): boolean => this.#client.hasWork || this.#control.isStopped(this.#thread);
    for (let idle = 0; !this.#control.isStopped(this.#thread); ) {
      idle = this.#client.pump() ? 0 : idle + 1;
      if (idle < IDLE_TURNS) await breathe();
      else await sleeper.sleep(SLEEP_MS, hasWork);
    }
    this.#client.close();
    await this.#server.close();
    this.#control.acknowledgeStop(this.#thread);
  }
}
