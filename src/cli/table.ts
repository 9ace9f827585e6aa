/** `cmap table DIR…`: evaluations side by side. */
import { Command, Option } from 'commander';
import { InputError } from '../engine/errors.ts';
import { readFinished, readSummary } from '../eval/finished.ts';
import { compare } from '../eval/metrics.ts';
import {
  type Cell,
  longTable,
  type Pair,
  pairedTable,
  robustBenchEntry,
  robustnessTable,
  threatColumn,
} from '../eval/tables.ts';
import { writeFileAtomic } from '../report/files.ts';
import { csvTable, escapeLatex, latexTable, markdownTable } from '../report/table.ts';

const formats = ['markdown', 'csv', 'latex', 'robustbench', 'json'] as const;
type Format = (typeof formats)[number];

interface TableFlags {
  readonly format: Format;
  readonly paired?: boolean;
  readonly out?: string;
}

export function tableCommand(): Command {
  return new Command('table')
    .description('Tables of evaluations, and paired tests between them.')
    .argument('<dir...>', 'folders of cmap eval')
    .addOption(
      new Option('--format <name>', 'csv has a line an attack and every number')
        .choices([...formats])
        .default('markdown'),
    )
    .option('--paired', 'the paired tests alone, in that format; markdown ends with them anyway')
    .option('--out <file>', 'write it there instead of printing it')
    .action((folders: string[], { format, paired, out }: TableFlags) => {
      const text = `${paired ? pairedText(folders, format) : tableText(folders, format)}\n`;
      if (out === undefined) process.stdout.write(text);
      else {
        writeFileAtomic(out, text);
        process.stdout.write(`${out}\n`);
      }
    });
}

function tableText(folders: readonly string[], format: Format): string {
  const summaries = folders.map(readSummary);
  switch (format) {
    case 'json':
      return JSON.stringify(summaries, null, 1);
    case 'robustbench': {
      const entries = summaries.map((s, i) => robustBenchEntry(s, folders[i] as string));
      return JSON.stringify(entries.length === 1 ? entries[0] : entries, null, 2);
    }
    case 'csv': {
      const { headings, rows } = longTable(summaries);
      return csvTable(headings, rows);
    }
    case 'latex': {
      const { headings, rows } = robustnessTable(summaries);
      return latexTable(headings.map(escapeLatex), bestRows(rows), threatColumn + 1);
    }
    case 'markdown': {
      const { headings, rows } = robustnessTable(summaries);
      const cells = rows.map((row) => row.map((cell) => cellText(cell)));
      return [
        markdownTable(headings, cells),
        'Accuracies in percent with 95 % Wilson intervals of n images; ± is the standard deviation over runs. “all attacks” is the per-sample worst case.',
        ...(folders.length > 1 ? [pairedText(folders, format)] : []),
      ].join('\n\n');
    }
  }
}

const percent = (value: number) => (100 * value).toFixed(1);

function cellText(cell: Cell): string {
  if (typeof cell === 'string') return cell || '–';
  const { value, interval, std, transfer } = cell;
  return `${percent(value)}${typeof std === 'number' ? ` ± ${percent(std)}` : ''} [${interval.map(percent).join(', ')}]${transfer ? ' transfer' : ''}`;
}

/**
 * LaTeX cells. Of several rows with the same data set and threat model the best of a column is bold; a transfer attack's
 * number does not compete with those of attacks that know their defence.
 */
function bestRows(rows: readonly (readonly Cell[])[]): string[][] {
  const rivals = (row: readonly Cell[]) =>
    rows.filter((other) => other[0] === row[0] && other[threatColumn] === row[threatColumn]);
  const competing = (cell: Cell | undefined) =>
    typeof cell === 'object' && !cell.transfer ? cell.value : Number.NEGATIVE_INFINITY;
  return rows.map((row) => {
    const others = rivals(row);
    return row.map((cell, i) => {
      if (typeof cell === 'string') return escapeLatex(cell || '–');
      const text = `${percent(cell.value)}${typeof cell.std === 'number' ? `\\,$\\pm$\\,${percent(cell.std)}` : ''}`;
      const best = Math.max(...others.map((other) => competing(other[i])));
      const value =
        others.length > 1 && competing(cell) === best && !cell.transfer ? `\\textbf{${text}}` : text;
      return `${value} {\\scriptsize [${cell.interval.map(percent).join(', ')}]${cell.transfer ? ' transfer' : ''}}`;
    });
  });
}

/** Every two of the evaluations, compared. */
function pairsOf(folders: readonly string[]): Pair[] {
  const read = folders.map(readFinished);
  return read.flatMap((a, i) =>
    read.slice(i + 1).map((b, j) => ({
      first: folders[i] as string,
      second: folders[i + 1 + j] as string,
      ...compare(a, b),
    })),
  );
}

/** The paired tests in a format of their own. */
function pairedText(folders: readonly string[], format: Format): string {
  if (folders.length < 2)
    throw new InputError(`--paired compares evaluations: ${folders[0]} is one; name a second folder`);
  const pairs = pairsOf(folders);
  const { headings, rows } = pairedTable(pairs, format === 'csv');
  switch (format) {
    case 'robustbench':
      throw new InputError('--format robustbench has no paired tests; markdown, csv, latex and json have');
    case 'json':
      return JSON.stringify(pairs, null, 1);
    case 'csv':
      return csvTable(
        headings.map((heading) => heading.replaceAll(' ', '_')),
        rows,
      );
    case 'latex':
      return latexTable(
        headings.map(escapeLatex),
        rows.map((row) => row.map((cell) => escapeLatex(cell || '–'))),
        3,
      );
    case 'markdown':
      return [
        markdownTable(headings, rows),
        'Of the images that both have, those that one has right in more of its runs than the other; p of the exact sign test, which is McNemar’s of one run, not corrected for the number of tests.',
      ].join('\n\n');
  }
}
