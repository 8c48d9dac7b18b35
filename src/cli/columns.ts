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

/**
 * The same as several tables one below the other, none wider than `wide` where columns allow that, each with the first column, which says whose row it is. Lines of
 * a terminal that are too long are cut off, and a program that paints over and over cannot be scrolled sideways.
 */
export function tablesWithin<Row>(wide: number, rows: readonly Row[], columns: readonly Column<Row>[], right: number): string[] {
  const whole = table(rows, columns, right);
  const [head] = columns;
  if (head === undefined || columns.length <= 2 || widthOf(whole) <= wide) return whole;
  let count = columns.length - 1;
  const first = (): string[] => table(rows, columns.slice(0, count), Math.max(0, right - columns.length + count));
  while (count > 2 && widthOf(first()) > wide) count--;
  return [...first(), '', ...tablesWithin(wide, rows, [head, ...columns.slice(count)], Math.min(right, columns.length - count))];
}

const widthOf = ([line = '']: readonly string[]): number => line.length;

/** Of what comes so often a second. */
export const roundRate = (perSecond: number): Cell => (perSecond > 0 && perSecond < 10 ? perSecond.toFixed(1) : Math.round(perSecond));
