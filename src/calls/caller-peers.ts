/**
 * The rings on which workers stream to the caller's thread, as workers are lost and have successors: as each survivor does, the caller lets go of a lost one's
 * rings and says so, before they are readied for its successor (platform/workers.ts). First it takes the tokens that lie in the ring of one that has died.
 * @module
 */
import type { ControlHandle } from '../platform/control-handle.ts';
import { toErrorRecord } from '../protocol/errors.ts';
import { type PeerNews, threadPeerCorrupt, threadPeerDetached } from '../protocol/threads.ts';
import { CONTROL_THREAD, Directory, seatsOf } from '../runtime/directory.ts';
import type { MessagePort, ReceivedMail } from '../runtime/message-port.ts';

export type CallerPeersPorts = {
  readonly receive: (mail: ReceivedMail) => void;
  /** A worker is lost, and all of it has been received that it had shown. */
  readonly losePeer: () => void;
  /** The same of the control thread, which nobody else can give up. */
  readonly loseControl: (error: unknown) => void;
};

export class CallerPeers {
  readonly #port: MessagePort;
  readonly #ports: CallerPeersPorts;
  readonly #directory: Directory;

  constructor(port: MessagePort, { plan: { hosting }, seating, lost }: Pick<ControlHandle, 'seating' | 'lost'> & PlanOfHosting, ports: CallerPeersPorts) {
    this.#port = port;
    this.#ports = ports;
    this.#directory = new Directory(hosting, seating);
    for (const { thread } of seatsOf(hosting)) if (lost.includes(thread) || !seating.threads.includes(thread)) port.links.detach(thread);
  }

  /** Rubbish lies in a thread's ring: its tokens are lost, with what is behind them, so it is given up, and they come from elsewhere. */
  findRubbish(thread: number, error: unknown): void {
    const worker = this.#directory.seating.threads.indexOf(thread);
    if (worker < 0) {
      this.#ports.loseControl(error);
      return;
    }
    const { links } = this.#port;
    this.#port.send(CONTROL_THREAD, 'control/0', 'caller/0', threadPeerCorrupt(worker, links.control.epochOf(thread), toErrorRecord(error).message), 'control');
  }

  hear(news: PeerNews): void {
    const { links } = this.#port;
    switch (news.type) {
      case 'PEER_LOST': {
        const thread = this.#directory.threadOfWorker(news.worker);
        if (news.has_ended) links.drain(thread, (_, ring) => this.#ports.receive(this.#port.read(ring)));
        links.detach(thread);
        this.#ports.losePeer();
        this.#port.send(CONTROL_THREAD, 'control/0', 'caller/0', threadPeerDetached(news.worker), 'control');
        break;
      }
      case 'PEER_RESTARTED':
        // Its successor streams, on this thread's rings.
        this.#directory.move(news.worker, news);
        links.detach(news.thread);
        links.attach(news.thread, news.epoch);
        break;
    }
  }
}

type PlanOfHosting = { readonly plan: Pick<ControlHandle['plan'], 'hosting'> };
