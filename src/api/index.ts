/** OpenAI-compatible HTTP over the embedded API: `minipod/api`. @module */

export { VERSION } from '../protocol/version.ts';
export { type AppOptions, createApp } from './app.ts';
export { type Clock, systemClock } from './clock.ts';
export type { ApiErrorBody, ApiErrorType } from './errors.ts';
export { type ApiServer, isLoopback, type ServeOptions, serve } from './serve.ts';
