/**
 * A plan as a file: YAML, which JSON is, too.
 * @module
 */
import { readFileSync } from 'node:fs';
import { LineCounter, parseDocument } from 'yaml';
import { MinipodError } from '../protocol/errors.ts';
import { type ChaosPlan, parsePlan } from './fault-plan.ts';

/** @throws `invalid_request` for a file that is missing, neither YAML nor JSON, or no plan */
export function readPlan(path: string): ChaosPlan {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new MinipodError('invalid_request', `${path} cannot be read: ${cause instanceof Error ? cause.message : cause}`, { cause });
  }
  return planOf(text, path);
}

/** @throws as `readPlan` */
export const planOf = (text: string, where: string): ChaosPlan => parsePlan(contentOf(text, where), where);

function contentOf(text: string, path: string): unknown {
  const refuse = (why: string, cause: unknown): MinipodError => new MinipodError('invalid_request', `${path} is neither YAML nor JSON: ${why}`, { cause });
  const lines = new LineCounter();
  // Else what may be wrong is printed, too.
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, logLevel: 'error' });
  const [wrong] = document.errors;
  if (wrong !== undefined) {
    const { line, col } = lines.linePos(wrong.pos[0]);
    throw refuse(`line ${line}, column ${col}: ${wrong.message}`, wrong);
  }
  try {
    return document.toJS();
  } catch (cause) {
    // What stands for something else may stand for nothing, or for too much.
    throw refuse(cause instanceof Error ? cause.message : String(cause), cause);
  }
}
