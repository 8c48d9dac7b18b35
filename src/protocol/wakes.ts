/** For which messages a thread that sleeps is woken, and for which it does not go to sleep. @module */
import type { FrontendToCaller } from './caller.ts';
import type { HeartbeatMessage } from './heartbeats.ts';
import type { Message } from './messages.ts';

type Quiet = Extract<HeartbeatMessage | FrontendToCaller, { type: 'PONG' | 'PROMPT' | 'SCHEDULED_CALL' }>['type'];

/**
 * What a thread that sleeps finds soon enough when it looks up by itself. Whoever asks for heartbeats has a timer for the next one, and looks at its mail before it counts who was silent. A caller whose calls are open looks up every
 * millisecond or two: to wake it for what comes before the first token takes a core from who computes that.
 */
const QUIET: ReadonlySet<unknown> = new Set<Quiet>(['PONG', 'PROMPT', 'SCHEDULED_CALL']);

export const wakesNobody = (message: object): boolean => 'type' in message && QUIET.has(message.type);

/** A DP group that idles answers within half a millisecond, and whoever asks one for a prefix has nothing to do before: one that steps answers later, or never. */
export const isAnsweredAtOnce = (message: Message): boolean => message.type === 'PREFIX_WANTED';
