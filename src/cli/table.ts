/** `cmap table DIR…`: evaluations side by side. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { InputError } from '../engine/errors.ts';
import { compare, type EvaluationSummary } from '../eval/metrics.ts';
import {
  type EvaluationConfig,
  type EvaluationRecord,
  keyOf,
  readConfig,
  readEvaluation,
} from '../eval/store.ts';
import {
  type Cell,
  longTable,
  type Pair,
  pairedTable,
  robustBenchEntry,
  robustnessTable,
} from '../eval/tables.ts';
import { readJson } from '../formats/read.ts';
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

/** @throws InputError when a folder holds no finished evaluation, or a summary that is not of it */
export function readSummary(folder: string): EvaluationSummary {
  const config = readConfig(folder);
  const path = join(folder, 'summary.json');
  const resume = `cmap eval --resume --out ${folder}`;
  if (!existsSync(path)) throw new InputError(`${folder}: the evaluation is not finished; ${resume} goes on`);
  const summary = readJson(path) as Partial<EvaluationSummary> | null;
  const wrong = whatIsWrong(summary, config);
  if (wrong !== null)
    throw new InputError(`${path}: not the summary of this evaluation: ${wrong}; ${resume} writes it anew`);
  return summary as EvaluationSummary;
}

/** @throws InputError when a folder holds no finished evaluation, or lacks records of it */
export function readFinished(folder: string): FinishedEvaluation {
  const summary = readSummary(folder);
  const { config, records } = readEvaluation(folder);
  const known = new Set(records.map(keyOf));
  for (const [attack, { kind }] of Object.entries(config.attacks))
    for (let run = 0; run < (kind === 'none' ? 1 : config.runs); run++)
      for (const image of config.images)
        if (!known.has(keyOf({ image, attack, run })))
          throw new InputError(
            `${join(folder, 'records.jsonl')}: no record of image ${image} under ${attack}, run ${run}; cmap eval --resume --out ${folder} makes it`,
          );
  return { config, records, summary };
}

export interface FinishedEvaluation {
  readonly config: EvaluationConfig;
  readonly records: readonly EvaluationRecord[];
  readonly summary: EvaluationSummary;
}

/** Why a summary cannot be that of an evaluation, in numbers; null where it can. */
function whatIsWrong(summary: Partial<EvaluationSummary> | null, config: EvaluationConfig): string | null {
  if (typeof summary !== 'object' || summary === null) return 'it is no object';
  const told = {
    schema: [summary.schema, 1],
    dataset: [summary.dataset, config.dataset],
    classifier: [summary.classifier, config.classifier?.name],
    defence: [summary.defence, config.defence.name],
    norm: [summary.norm, config.norm],
    eps: [summary.eps, config.eps],
    count: [summary.count, config.images.length],
    attacks: [Object.keys(summary.attacks ?? {}).join(), Object.keys(config.attacks).join()],
  };
  for (const [name, [found, wanted]] of Object.entries(told))
    if (found !== wanted) return `${name} is ${JSON.stringify(found)}, wanted ${JSON.stringify(wanted)}`;
  const shares: Record<string, [unknown, unknown]> = {
    clean: [summary.clean, summary.cleanInterval],
    standard: [summary.standard, summary.standardInterval],
    robust: [summary.robust, summary.robustInterval],
    worst: [summary.worst?.value, summary.worst?.interval],
  };
  for (const [name, a] of Object.entries(summary.attacks ?? {})) {
    shares[`attacks.${name}.robust`] = [a?.robust, a?.interval];
    shares[`attacks.${name}.worst`] = [a?.worst?.value, a?.worst?.interval];
    shares[`attacks.${name}.majority`] = [a?.majority?.value, a?.majority?.interval];
  }
  const isShare = (x: unknown) => typeof x === 'number' && x >= 0 && x <= 1;
  const unusable = Object.entries(shares).find(
    ([, [value, interval]]) =>
      !(isShare(value) && Array.isArray(interval) && interval.length === 2 && interval.every(isShare)),
  );
  return unusable ? `${unusable[0]} is no proportion with an interval` : null;
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
      return latexTable(headings.map(escapeLatex), bestRows(rows), 4);
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
