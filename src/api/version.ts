import { VERSION } from '../protocol/version.ts';

/** What `system_fingerprint` says: outputs are the same for the same fingerprint, model, prompt, options and seed. */
export const FINGERPRINT = `minipod-${VERSION}`;
