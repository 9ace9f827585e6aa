import { stripVTControlCharacters } from 'node:util';

/**
 * A table of text for the terminal: a line of headings, a rule, rows. Columns of numbers are aligned right,
 * others left. Colours in cells do not count for the width. Ends without a newline.
 *
 *     formatTable(['image', 'votes'], [['Sneaker', '5/5'], ['Bag', 3]])
 */
export function formatTable(
  headings: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): string {
  const cells = rows.map((row) => headings.map((_, i) => String(row[i] ?? '')));
  const length = (text: string) => stripVTControlCharacters(text).length;
  const widths = headings.map((heading, i) =>
    Math.max(length(heading), ...cells.map((row) => length(row[i] as string))),
  );
  const numeric = headings.map((_, i) =>
    cells.every((row) => /^([-+\d].*|)$/.test(stripVTControlCharacters(row[i] as string))),
  );
  const line = (row: readonly string[]) =>
    row
      .map((text, i) => {
        const pad = ' '.repeat((widths[i] as number) - length(text));
        return numeric[i] ? pad + text : text + pad;
      })
      .join('  ')
      .trimEnd();
  return [line(headings), widths.map((width) => '─'.repeat(width)).join('  '), ...cells.map(line)].join('\n');
}
