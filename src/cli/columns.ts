/** Rows as a Markdown table, so that what is copied from a terminal is a table in an issue too. @module */
import { markdownTable } from 'markdown-table';

export type Cell = string | number;
export type Column<Row> = readonly [title: string, cell: (row: Row) => Cell];

/** What stands where there is nothing to tell. */
export const NONE = '–';

/** The last `right` columns, whose cells are all numbers, with or without a unit, stand to the right. A line an entry. */
export function table<Row>(rows: readonly Row[], columns: readonly Column<Row>[], right: number): string[] {
  const cells = rows.map((row) => columns.map(([, cell]) => String(cell(row))));
  const align = columns.map((_, index) => (index < columns.length - right ? '' : 'r'));
  return markdownTable([columns.map(([title]) => title), ...cells], { align }).split('\n');
}

/** Of what comes so often a second. */
export const roundRate = (perSecond: number): Cell => (perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : Math.round(perSecond));
