/** The package's version; a test holds it equal to package.json (which the built files cannot import from a fixed place). @module */
export const VERSION = '0.1.0';
