/** OpenAI-compatible HTTP over the embedded API: `minipod/api`. @module */
export { type AppOptions, createApp } from './app.ts';
export { type Clock, systemClock } from './clock.ts';
export type { ApiErrorBody, ApiErrorType } from './errors.ts';
export { type ApiServer, type ServeOptions, serve } from './serve.ts';
export { VERSION } from './version.ts';
