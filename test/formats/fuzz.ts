/** What the tests of file readers share: damaged copies of a good file, and the one acceptable way to refuse them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { InputError } from '../../src/engine/errors.ts';

/** A new empty folder, removed at the end of the process. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'cmap-test-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** `f` must throw an InputError of one line in which all of `parts` occur. */
export function refuses(f: () => unknown, ...parts: string[]): void {
  let result: unknown;
  try {
    result = f();
  } catch (error) {
    assert.instance(error, InputError, String((error as Error).stack));
    const { message } = error as Error;
    assert.not.match(message, '\n');
    for (const part of parts) assert.ok(message.includes(part), `"${message}" does not say "${part}"`);
    return;
  }
  assert.unreachable(
    `accepted, with ${JSON.stringify(result)?.slice(0, 200)}; expected: ${parts.join(', ')}`,
  );
}

/** Numbers in [0, 1), the same in each run. */
export function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/**
 * Reads `rounds` damaged copies of `good`: each must be read or refused, nothing else.
 * @param reach bytes at the front that most of the damage hits
 */
export function fuzz(
  good: Uint8Array,
  read: (file: Uint8Array) => unknown,
  reach: number,
  rounds = 400,
): void {
  const random = numbers(good.length);
  const below = (n: number) => Math.floor(random() * n);
  for (let round = 0; round < rounds; round++) {
    let file = good.slice();
    for (let change = below(4); change >= 0; change--) {
      const at = below(random() < 0.8 ? Math.min(reach, file.length) : file.length);
      const kind = below(6);
      if (kind === 0) file[at]! ^= 1 << below(8);
      else if (kind === 1) file[at] = below(256);
      else if (kind === 2) file[at] = 0x30 + below(10);
      else if (kind === 3) file = file.slice(0, at);
      else if (kind === 4) file = Uint8Array.of(...file.subarray(0, at), ...file.subarray(at + 1 + below(3)));
      else
        file = Uint8Array.of(
          ...file.subarray(0, at),
          ...file.subarray(at - below(at), at),
          ...file.subarray(at),
        );
      if (file.length === 0) break;
    }
    try {
      read(file);
    } catch (error) {
      if (error instanceof InputError && error.message.startsWith('fuzz: ') && !error.message.includes('\n'))
        continue;
      assert.unreachable(
        `round ${round}: ${(error as Error)?.stack}\n${Buffer.from(file).toString('latin1')}`,
      );
    }
  }
  for (let length = 0; length < good.length; length += 1 + (length >> 6)) {
    refuses(() => read(good.subarray(0, length)), 'fuzz: ');
  }
}
