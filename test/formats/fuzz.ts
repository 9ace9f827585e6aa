/** What the tests of file readers share: damaged copies of a good file, and the one acceptable way to refuse them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { InputError } from '../../src/engine/errors.ts';
import type { OpenedFile } from '../../src/formats/read.ts';

const folders: string[] = [];
process.once('exit', () => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** A new empty folder, removed at the end of the process. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'cmap-test-'));
  folders.push(folder);
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
 * Damaged copies of `good`, `rounds` of them.
 * @param reach bytes at the front that most of the damage hits
 */
function* damaged(good: Uint8Array, reach: number, rounds: number): Generator<Uint8Array> {
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
    yield file;
  }
}

/** Lengths to which a file is cut: all of the first 64, then fewer. */
function* cuts(length: number): Generator<number> {
  for (let cut = 0; cut < length; cut += 1 + (cut >> 6)) yield cut;
}

/** Fails unless `error` is a refusal of one line that names the file "fuzz". */
function checkRefusal(error: unknown, file: Uint8Array): void {
  if (error instanceof InputError && error.message.startsWith('fuzz: ') && !error.message.includes('\n'))
    return;
  assert.unreachable(`${(error as Error)?.stack}\n${Buffer.from(file).toString('latin1')}`);
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
  for (const file of damaged(good, reach, rounds)) {
    try {
      read(file);
    } catch (error) {
      checkRefusal(error, file);
    }
  }
  for (const length of cuts(good.length)) refuses(() => read(good.subarray(0, length)), 'fuzz: ');
}

/** The same for a reader that is asynchronous; no damaged copy may take longer than ten seconds. */
export async function fuzzAsync(
  good: Uint8Array,
  read: (file: Uint8Array) => Promise<unknown>,
  reach: number,
  rounds = 400,
): Promise<void> {
  for (const file of damaged(good, reach, rounds)) {
    const begin = performance.now();
    await read(file).catch((error) => checkRefusal(error, file));
    assert.ok(performance.now() - begin < 10_000, Buffer.from(file).toString('latin1'));
  }
  for (const length of cuts(good.length)) {
    await refusesAsync(() => read(good.subarray(0, length)), 'fuzz: ');
  }
}

/** `refuses` for an asynchronous `f`. */
export async function refusesAsync(f: () => Promise<unknown>, ...parts: string[]): Promise<void> {
  let thrown: unknown;
  await f().catch((error) => {
    thrown = error;
  });
  refuses(
    () => {
      if (thrown) throw thrown;
    },
    ...parts,
  );
}

/** Bytes as if they were an opened file. */
export function opened(bytes: Uint8Array): OpenedFile {
  return { size: bytes.length, read: (begin, end) => bytes.slice(begin, end), close() {} };
}
