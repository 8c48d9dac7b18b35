/** How bytes of a model's tokens become text. @module */

/** `ignoreBOM` keeps U+FEFF: it is text that the model wrote. */
export const newUtf8Decoder = (): TextDecoder => new TextDecoder('utf-8', { ignoreBOM: true });
