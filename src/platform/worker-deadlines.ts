/** How long a worker may take for what its supervisor waits for. @module */

/** A step takes milliseconds, a long prefill's chunk tens of them. */
export const STOP_DEADLINE_MS = 5_000;
/** A thread that reads its stop word stops within 50 ms; one that has not by now is terminated. On Deno it then has as long again to acknowledge. */
export const STOP_GRACE_MS = 250;
/** Of one that has turned no loop for as long as its silence took: it does not read its stop word either. */
export const SILENT_GRACE_MS = 20;
/** Where terminating ends a thread, this is how long that may take on a crowded machine. */
export const TERMINATION_DEADLINE_MS = 20_000;
/** A successor that has not started by now hangs, and so does a survivor that has not let go of the predecessor's rings. */
export const HANDSHAKE_DEADLINE_MS = 20_000;
/** Of a thread that has said that it ends: its last write follows at once. */
export const LAST_WRITE_LOOK_MS = 1;
