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

/** The same as Markdown. Bars in cells are escaped. */
export function markdownTable(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const quoted = (text: string) => text.replace(/\\/g, '\\\\').replace(/\|/g, '\\|').replace(/\n/g, ' ');
  const line = (cells: readonly string[]) =>
    `| ${headings.map((_, i) => quoted(cells[i] ?? '')).join(' | ')} |`;
  return [line(headings), `|${headings.map(() => ' --- |').join('')}`, ...rows.map(line)].join('\n');
}

/** The same as comma-separated values (RFC 4180, with plain line feeds). */
export function csvTable(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const quoted = (text: string) => (/[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
  return [headings, ...rows]
    .map((cells) => headings.map((_, i) => quoted(cells[i] ?? '')).join(','))
    .join('\n');
}

const latexCharacters: Record<string, string> = {
  '\\': '\\textbackslash{}',
  '~': '\\textasciitilde{}',
  '^': '\\textasciicircum{}',
};

/** Text that LaTeX prints as it is. */
export function escapeLatex(text: string): string {
  return text.replace(/[\\~^]|[&%$#_{}]/g, (c) => latexCharacters[c] ?? `\\${c}`).replace(/–/g, '--');
}

/** The same as a LaTeX tabular with the rules of the booktabs package; cells are LaTeX already. */
export function latexTable(
  headings: readonly string[],
  rows: readonly (readonly string[])[],
  left = 1,
): string {
  const line = (cells: readonly string[]) => `${headings.map((_, i) => cells[i] ?? '').join(' & ')} \\\\`;
  const columns = headings.map((_, i) => (i < left ? 'l' : 'r')).join('');
  return [
    `\\begin{tabular}{${columns}}`,
    '\\toprule',
    line(headings),
    '\\midrule',
    ...rows.map(line),
    '\\bottomrule',
    '\\end{tabular}',
  ].join('\n');
}
