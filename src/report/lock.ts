/** One process at a time in a folder that is written to for long. */
import {
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { InputError } from '../engine/errors.ts';
import { cannotWrite } from './files.ts';

/** Marks of this process. */
const locked = new Set<string>();

/** Seconds after which a mark that another machine no longer touches counts for nothing. */
const markLasts = 120;

/**
 * Marks a folder as this process's, until what is returned is called. On this machine a process is asked whether it runs;
 * those of others, which may share the folder, touch their mark as long as they do.
 * @throws InputError where another has it
 */
export function lockFolder(folder: string): () => void {
  const path = join(folder, 'lock');
  const here = hostname();
  const own = resolve(path);
  if (locked.has(own))
    throw new InputError(`${folder}: this process is writing to it already; one after the other`);
  for (let tried = 0; ; tried++) {
    try {
      writeFileSync(path, `${process.pid} ${here}`, { flag: 'wx' });
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || tried > 9) throw cannotWrite(path, error);
    }
    try {
      const found = readFileSync(path, 'utf8');
      const [pid, host = here] = found.split(' ');
      const age = (Date.now() - statSync(path).mtimeMs) / 1000;
      // An empty one is being written.
      const held = pid === '' ? age < 5 : host === here ? runs(Number(pid)) : age < markLasts;
      if (held)
        throw new InputError(
          `${folder}: process ${pid}${host === here ? '' : ` of ${host}`} is writing to it; wait for it or end it, or choose another --out (${host === here ? `if it is none of cmap's, delete ${path}` : 'where that one has ended its mark counts for two minutes'})`,
        );
      // Of several that find a dead one's mark each may take away the mark of the first: what was taken is looked at.
      const aside = `${path}.${process.pid}`;
      renameSync(path, aside);
      if (readFileSync(aside, 'utf8') !== found && !existsSync(path)) renameSync(aside, path);
      rmSync(aside, { force: true });
    } catch (error) {
      if (error instanceof InputError) throw error;
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw cannotWrite(path, error);
    }
  }
  // A process that was killed while it wrote leaves a file as large as a whole one.
  for (const name of readdirSync(folder))
    if (/^\..+\.\d+\.\d+\.tmp$/.test(name)) rmSync(join(folder, name), { force: true });
  const beat = setInterval(() => {
    try {
      utimesSync(path, new Date(), new Date());
    } catch {}
  }, 30_000);
  beat.unref();
  locked.add(own);
  return () => {
    clearInterval(beat);
    locked.delete(own);
    rmSync(path, { force: true });
  };
}

/** Whether there is such a process on this machine, other than this one. */
function runs(pid: number): boolean {
  if (!Number.isInteger(pid) || pid < 1 || pid === process.pid) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
