/** Every command of the documentation is one that the parser takes: names, options, choices, numbers, what is mandatory. */
import { readdirSync, readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parseSpec } from '../../src/attacks/spec.ts';
import { commandTree } from '../../src/cli/commands.ts';
import { root } from '../support.ts';

const test = suite('documented commands');

interface Documented {
  readonly where: string;
  readonly words: readonly string[];
}

/** Lines of code that begin with `cmap` or `npm run cmap --`, without comments; a backslash goes on in the next line. */
function commandsOf(file: string): Documented[] {
  const lines = readFileSync(`${root}${file}`, 'utf8')
    .replace(/\\\n\s*/g, ' ')
    .split('\n');
  let fenced = false;
  return lines.flatMap((line, i) => {
    if (line.startsWith('```')) fenced = !fenced;
    const code = fenced ? line : /^ {4}(\S.*)$/.exec(line)?.[1];
    const [, rest] = /^(?:\w+=\S+ )*(?:npm run cmap --|cmap) (\w.*)$/.exec(code?.trim() ?? '') ?? [];
    if (!rest) return [];
    const words = rest
      .replace(/\s+#.*$/, '')
      .trim()
      .split(/\s+/);
    return [{ where: `${file}:${i + 1}`, words }];
  });
}

const files = [
  'README.md',
  ...['docs', 'weights', 'bench'].flatMap((folder) =>
    readdirSync(`${root}${folder}`)
      .filter((name) => name.endsWith('.md'))
      .map((name) => `${folder}/${name}`),
  ),
];
const documented = files.flatMap(commandsOf);

/** Parses without doing anything. */
function parse(words: readonly string[]): void {
  const program = commandTree();
  const quiet = (command: Command) =>
    command
      .exitOverride()
      .configureOutput({ writeErr: () => {}, writeOut: () => {} })
      .action(() => {});
  for (const command of program.commands) {
    if (command.commands.length === 0) quiet(command);
    for (const inner of command.commands) quiet(inner);
  }
  program.exitOverride().configureOutput({ writeErr: () => {}, writeOut: () => {} });
  program.parse(words as string[], { from: 'user' });
}

test('each is taken', () => {
  assert.ok(documented.length > 30, `${documented.length} found`);
  const wrong: string[] = [];
  for (const { where, words } of documented) {
    try {
      parse(words);
      const at = words.indexOf('--attack');
      if (at >= 0) for (const spec of (words[at + 1] as string).split(',')) parseSpec(spec);
      if (words[0] === 'eval' && !words.includes('--dataset') && !words.includes('--resume'))
        throw new Error('--dataset is missing');
    } catch (error) {
      if ((error as { code?: string }).code !== 'commander.helpDisplayed')
        wrong.push(`${where}: cmap ${words.join(' ')}: ${(error as Error).message}`);
    }
  }
  assert.is(wrong.join('\n'), '');
});

test('a wrong one is found', () => {
  for (const words of [
    ['evaluate'],
    ['eval', '--no-such-option'],
    ['eval', '--dataset', 'mnist'],
    ['eval', '--count', 'many'],
    ['verify'],
  ])
    assert.throws(() => parse(words), undefined, words.join(' '));
});

test.run();
