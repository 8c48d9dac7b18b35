/** How a live run has its pod's control thread hang: it stops this thread, which nobody is. @module */
import { THREADS_MAX } from '../fabric/control-page.ts';

/** Beside the one whose words are orders for workers (live-order.ts). */
export const HANGS = THREADS_MAX - 3;
