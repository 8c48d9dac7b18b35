/** What a thread that sleeps finds soon enough when it looks up by itself. @module */
import type { FrontendToCaller } from './caller.ts';
import type { HeartbeatMessage } from './heartbeats.ts';

type Quiet = Extract<HeartbeatMessage | FrontendToCaller, { type: 'PONG' | 'PROMPT' | 'SCHEDULED_CALL' }>['type'];

/**
 * Whoever asks for heartbeats has a timer for the next one, and looks at its mail before it counts who was silent. A caller whose calls are open looks up every
 * millisecond or two: to wake it for what comes before the first token takes a core from who computes that.
 */
const QUIET: ReadonlySet<unknown> = new Set<Quiet>(['PONG', 'PROMPT', 'SCHEDULED_CALL']);

export const wakesNobody = (message: object): boolean => 'type' in message && QUIET.has(message.type);
