/**
 * Global addresses: segment × 2³² + offset, a plain number, exact up to 2⁵³.
 * @module
 */

const SEGMENT_STRIDE = 2 ** 32;
/** Address 0 and what a null pointer might reach is never given out. */
export const GUARD_BYTES = 65_536;
export const PAGE_BYTES = 65_536;

export const segmentOf = (address: number): number => Math.floor(address / SEGMENT_STRIDE);
/** Offset within the segment: what a kernel is given. Exact, and 1 ns where the remainder of two doubles takes 11. */
export const offsetOf = (address: number): number => address - Math.floor(address / SEGMENT_STRIDE) * SEGMENT_STRIDE;
export const globalAddress = (segment: number, offset: number): number => segment * SEGMENT_STRIDE + offset;

export const roundUp = (bytes: number, unit: number): number => Math.ceil(bytes / unit) * unit;
export const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
/** `0:0x1f400`: segment and offset, as `minipod fabric` shows them. */
export const addressText = (address: number): string => `${segmentOf(address)}:0x${offsetOf(address).toString(16)}`;
