#!/usr/bin/env node
/**
 * The command line. Each command is a file that parses, calls the library and prints. What a user can cause ends
 * in one line on stderr and a non-zero exit; anything else is a bug and keeps its stack.
 */
import { CommanderError } from 'commander';
import { CmapError } from '../engine/errors.ts';
import { cannotWrite } from '../report/files.ts';
import { commandTree } from './commands.ts';

/** The parser's complaint, on one line. */
const outputError = (text: string, write: (text: string) => void) =>
  write(
    `${text
      .trim()
      .replace(/^error: /, 'cmap: ')
      .replace(/\s*\n\s*/g, ' ')}\n`,
  );

const program = commandTree().exitOverride().configureOutput({ outputError });
for (const command of program.commands.flatMap((c) => [c, ...c.commands])) {
  command.exitOverride().configureOutput({ outputError });
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  process.stderr.write(`cmap: ${cannotWrite('standard output', error).message}\n`);
  process.exit(1);
});

// Progress that nobody reads any more ends no work.
process.stderr.on('error', () => {});

try {
  await program.parseAsync();
  // What could not be written is told after the write.
  await new Promise((written) => process.stdout.write('', written));
  // Dawn's threads would otherwise keep the process for a moment.
  process.exit(process.exitCode ?? 0);
} catch (error) {
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : 2);
  if (error instanceof CmapError) {
    // Names of files may hold what would break the line or steer a terminal.
    process.stderr.write(
      `cmap: ${error.message.replaceAll(/\s*\n\s*/g, ' ').replaceAll(/\p{Cc}/gu, '\ufffd')}\n`,
    );
    process.exit(1);
  }
  process.stderr.write(`cmap: unexpected failure, please report it\n${(error as Error)?.stack ?? error}\n`);
  process.exit(70);
}
