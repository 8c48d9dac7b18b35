/**
 * Request records in the memory of a lost pod's successor: those of open calls, each with its pages, in the same places. Nothing else comes along: what a lost
 * control thread had begun to write and never told the caller of is nobody's.
 *
 * The caller's thread does this before it asks the successor for anything, so nobody reads or writes there meanwhile; and of what it copies no other thread has
 * written since the call was open: prompt and terms were written before, the tokens it writes itself. All but the owner: the successor's job executors have other
 * lives, so a moved record is nobody's, and at its first attempt, until its call goes on (`RequestRecords.reopen`).
 * @module
 */
import { assert } from '../../protocol/errors.ts';
import { NONE } from './record-pages.ts';
import { PAGE_WORDS, RECORD, RECORD_WORDS, type RecordTable } from './record-table.ts';

const NOBODY = 0;

export function moveRecords(from: RecordTable, to: RecordTable, records: readonly number[]): void {
  assert(from.records === to.records && from.pages === to.pages, `records move to a table of the same size, not from ${from.pages} pages to ${to.pages}`);
  for (const record of records) {
    for (let word = 0; word < RECORD_WORDS; word++) to.store(record, word, from.load(record, word));
    to.store(record, RECORD.owner, NOBODY);
    moveChain(from, to, from.load(record, RECORD.output_at));
    // The first choice has them for all.
    if (from.load(record, RECORD.prompt_in) === record) moveChain(from, to, from.load(record, RECORD.terms_at));
  }
}

function moveChain(from: RecordTable, to: RecordTable, first: number): void {
  let page = first;
  for (let moved = 0; page >= 0; moved++) {
    assert(moved < from.pages, `a chain of request records leads in a circle, from page ${first} on`);
    const [source, target] = [from.pageAt(page), to.pageAt(page)];
    to.words.set(from.words.subarray(source, source + PAGE_WORDS), target);
    page = from.words[source] as number;
  }
  assert(page === NONE, `a chain of request records ends in a page that is nobody's: ${page}`);
}
