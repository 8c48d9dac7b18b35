/** Who is sent to, sends, and is no machine: what they do is not replayed, what they send is recorded where it arrives. @module */
import type { Role } from '../protocol/address.ts';

export const HANDS: ReadonlySet<Role> = new Set(['frontend', 'output', 'control']);
