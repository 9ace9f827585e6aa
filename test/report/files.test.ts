import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { checkWritable, ensureDirectory, writeFileAtomic } from '../../src/report/files.ts';
import { lockFolder } from '../../src/report/lock.ts';
import { refuses, temporaryFolder } from '../formats/fuzz.ts';

const folder = temporaryFolder();

test('files are written and replaced, with nothing left beside them', () => {
  const path = join(folder, 'a', 'b', 'c.txt');
  writeFileAtomic(path, 'first');
  writeFileAtomic(path, Uint8Array.of(0x68, 0x69));
  assert.is(readFileSync(path, 'utf8'), 'hi');
  assert.equal(readdirSync(join(folder, 'a', 'b')), ['c.txt']);
});

test('a link stays a link, a mode stays', () => {
  const target = join(folder, 'target');
  writeFileSync(target, 'old', { mode: 0o600 });
  symlinkSync(target, join(folder, 'link'));
  writeFileAtomic(join(folder, 'link'), 'new');
  assert.is(readFileSync(target, 'utf8'), 'new');
  assert.is(statSync(target).mode & 0o777, 0o600);
});

test('a device stays a device', () => {
  writeFileAtomic('/dev/null', 'x');
  assert.not(statSync('/dev/null').isFile());
});

test('refusals name the place and the way out', () => {
  mkdirSync(join(folder, 'dir'));
  writeFileSync(join(folder, 'file'), '');
  refuses(() => writeFileAtomic(join(folder, 'dir'), 'x'), join(folder, 'dir'), 'folder', 'choose another');
  refuses(() => writeFileAtomic(join(folder, 'file', 'x'), 'x'), 'not a folder');
  refuses(() => ensureDirectory(join(folder, 'file')), join(folder, 'file'), 'in the way');
  refuses(() => writeFileAtomic(join(folder, 'n'.repeat(300)), 'x'), 'too long');
  if (existsSync('/proc/self'))
    refuses(() => ensureDirectory('/proc/x/y'), '/proc/x/y', 'no folder can be made');
  assert.equal(readdirSync(folder).sort(), ['a', 'dir', 'file', 'link', 'target']);
});

test('what cannot be written is told before, and nothing is made', () => {
  const path = (...names: string[]) => join(folder, ...names);
  const before = readdirSync(folder).sort();
  checkWritable(undefined, path('new', 'deep', 'x.json'), path('file'), '/dev/null');
  refuses(() => checkWritable(path('file'), path('dir')), path('dir'), 'folder');
  refuses(() => checkWritable(path('file', 'x.json')), 'not a folder');
  assert.equal(readdirSync(folder).sort(), before);
});

test('a folder is one process’s: of those here that run, of others’ while they touch their mark', () => {
  const at = join(folder, 'locked');
  mkdirSync(at);
  const mark = join(at, 'lock');
  writeFileSync(join(at, '.checkpoint.safetensors.77.0.tmp'), 'what a kill left');
  const unlock = lockFolder(at);
  assert.equal(readdirSync(at), ['lock']);
  refuses(() => lockFolder(at), 'this process is writing to it already');
  unlock();
  assert.equal(readdirSync(at), []);

  writeFileSync(mark, `${process.ppid}`);
  refuses(() => lockFolder(at), at, `process ${process.ppid} is writing to it`);
  writeFileSync(mark, '77 elsewhere');
  refuses(() => lockFolder(at), 'process 77 of elsewhere');
  const old = new Date(Date.now() - 300_000);
  utimesSync(mark, old, old);
  lockFolder(at)();
  writeFileSync(mark, `${2 ** 30}`);
  lockFolder(at)();
});

test.run();
