/** Prompts of twelve tokens, no two alike, so that nothing of one is in another's cache. @module */

export const promptOf = (index: number): number[] => [1, 86, 1461, 613, 265, 531, 460, 315 + index, 265, 504, 454, 358 + index];
export const promptsOf = (count: number): number[][] => Array.from({ length: count }, (_, index) => promptOf(index));
