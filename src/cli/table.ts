/** `cmap table DIR…`: evaluations side by side. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { InputError } from '../engine/errors.ts';
import { compare, type EvaluationSummary } from '../eval/metrics.ts';
import { readConfig, readEvaluation } from '../eval/store.ts';
import { type Cell, longTable, robustBenchEntry, robustnessTable } from '../eval/tables.ts';
import { readJson } from '../formats/read.ts';
import { writeFileAtomic } from '../report/files.ts';
import { csvTable, escapeLatex, latexTable, markdownTable } from '../report/table.ts';

const formats = ['markdown', 'csv', 'latex', 'robustbench', 'json'] as const;

export function tableCommand(): Command {
  return new Command('table')
    .description('Tables of evaluations, and paired tests between them.')
    .argument('<dir...>', 'folders of cmap eval')
    .addOption(
      new Option('--format <name>', 'csv has a line an attack and every number')
        .choices([...formats])
        .default('markdown'),
    )
    .option('--out <file>', 'write it there instead of printing it')
    .action((folders: string[], { format, out }: { format: (typeof formats)[number]; out?: string }) => {
      const text = `${tableText(folders, format)}\n`;
      if (out === undefined) process.stdout.write(text);
      else {
        writeFileAtomic(out, text);
        process.stdout.write(`${out}\n`);
      }
    });
}

/** @throws InputError when a folder holds no finished evaluation */
export function readSummary(folder: string): EvaluationSummary {
  const config = readConfig(folder);
  const path = join(folder, 'summary.json');
  if (!existsSync(path))
    throw new InputError(
      `${folder}: the evaluation is not finished; cmap eval --resume --out ${folder} goes on`,
    );
  const summary = readJson(path) as EvaluationSummary | null;
  if (summary?.schema !== 1 || typeof summary.attacks !== 'object' || summary.count !== config.images.length)
    throw new InputError(`${path}: not the summary of this evaluation; cmap eval --resume writes it anew`);
  return summary;
}

function tableText(folders: readonly string[], format: (typeof formats)[number]): string {
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
      return latexTable(headings.map(escapeLatex), bestRows(rows), 4);
    }
    case 'markdown': {
      const { headings, rows } = robustnessTable(summaries);
      const cells = rows.map((row) => row.map((cell) => cellText(cell)));
      return [
        markdownTable(headings, cells),
        'Accuracies in percent with 95 % Wilson intervals of n images; ± is the standard deviation over runs. “all attacks” is the per-sample worst case.',
        ...paired(folders),
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

/** LaTeX cells; of several rows the best of a column is bold. */
function bestRows(rows: readonly (readonly Cell[])[]): string[][] {
  const best = (rows[0] ?? []).map((_, i) =>
    Math.max(...rows.map((row) => (typeof row[i] === 'object' ? (row[i] as { value: number }).value : -1))),
  );
  return rows.map((row) =>
    row.map((cell, i) => {
      if (typeof cell === 'string') return escapeLatex(cell || '–');
      const text = `${percent(cell.value)}${typeof cell.std === 'number' ? `\\,$\\pm$\\,${percent(cell.std)}` : ''}`;
      const value = rows.length > 1 && cell.value === best[i] ? `\\textbf{${text}}` : text;
      return `${value} {\\scriptsize [${cell.interval.map(percent).join(', ')}]${cell.transfer ? ' transfer' : ''}}`;
    }),
  );
}

/** McNemar's test of every two evaluations of the same images. */
function paired(folders: readonly string[]): string[] {
  if (folders.length < 2) return [];
  const read = folders.map(readEvaluation);
  const rows: string[][] = [];
  for (let a = 0; a < read.length; a++) {
    for (let b = a + 1; b < read.length; b++) {
      const test = compare(read[a] as (typeof read)[number], read[b] as (typeof read)[number]);
      if (!test) continue;
      const { onlyFirst, onlySecond, p, images, attacks } = test;
      rows.push([
        folders[a] as string,
        folders[b] as string,
        attacks.join(', '),
        String(images),
        String(onlyFirst),
        String(onlySecond),
        p < 1e-4 ? p.toExponential(1) : p.toFixed(4),
      ]);
    }
  }
  if (rows.length === 0) return [];
  return [
    'Paired on the images that both have; right under every shared attack, by majority (McNemar’s exact test):',
    markdownTable(['first', 'second', 'attacks', 'n', 'only first right', 'only second right', 'p'], rows),
  ];
}
