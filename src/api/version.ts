/** The package's version; a test holds it equal to package.json (which the built files cannot import from a fixed place). */
export const VERSION = '0.1.0';

/** What `system_fingerprint` says: outputs are the same for the same fingerprint, model, prompt, options and seed. */
export const FINGERPRINT = `minipod-${VERSION}`;
