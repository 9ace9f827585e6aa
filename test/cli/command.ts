/** The built command line, run as a user runs it. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { root } from '../support.ts';

/** Runs commands in `folder`. */
export function commandIn(folder: string | (() => string)) {
  function cmap(args: string[], at = root, env: Record<string, string> = {}) {
    const { status, stdout, stderr } = spawnSync(process.execPath, [join(at, 'dist', 'cli.js'), ...args], {
      encoding: 'utf8',
      cwd: typeof folder === 'string' ? folder : folder(),
      env: { ...process.env, ...env },
    });
    // Dawn itself warns of two limits when lavapipe is opened.
    const lines = stderr.split('\n').filter((line) => line !== '' && !line.startsWith('Warning: maxDynamic'));
    return { status, stdout, lines };
  }

  /** The command must fail with one line that matches, and print nothing else. */
  function refused(args: string[], pattern: RegExp, at = root, env: Record<string, string> = {}) {
    const { status, stdout, lines } = cmap([...args], at, env);
    assert.not.equal(status, 0, `exit of ${args.join(' ')}`);
    assert.is(stdout, '');
    const said = lines.filter((line) => !line.startsWith('adapter: '));
    assert.is(said.length, 1, lines.join('\n'));
    assert.match(said[0] as string, pattern);
  }

  return { cmap, refused };
}

/** A copy of the built package without its tests, whose weights may be changed. */
export function packageCopy(copy: string): string {
  mkdirSync(copy);
  for (const name of ['dist', 'weights', 'data', 'package.json']) {
    cpSync(join(root, name), join(copy, name), {
      recursive: true,
      filter: (path) => !path.includes(join('dist', 'test')),
    });
  }
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
  return copy;
}
