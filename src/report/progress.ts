/** One line that says how far a long task is: a bar on a terminal, a sober line now and then elsewhere. */
import { SingleBar } from 'cli-progress';

export interface ProgressOptions {
  /** Default stderr, which leaves stdout to results. */
  readonly stream?: NodeJS.WritableStream & { readonly isTTY?: boolean };
  /** Say nothing at all. */
  readonly quiet?: boolean;
  /** Milliseconds between lines where there is no terminal. */
  readonly interval?: number;
  /** The clock, in milliseconds. */
  readonly now?: () => number;
}

export interface Progress {
  /** `n` more units are done. */
  tick(n?: number): void;
  /** `done` units of all are done; `note` is shown behind. */
  update(done: number, note?: string): void;
  /** Ends the line; calling it again does nothing. */
  stop(): void;
}

/**
 * Begins to show progress.
 *
 *     const line = progress('purify', 300);
 *     for (...) line.tick();
 *     line.stop();
 */
export function progress(label: string, total: number, options: ProgressOptions = {}): Progress {
  const {
    stream = process.stderr,
    quiet = false,
    interval = 10_000,
    now = () => performance.now(),
  } = options;
  if (quiet) return { tick() {}, update() {}, stop() {} };
  const time = clock(total, now);
  const show = stream.isTTY ? bar(label, total, stream, time) : lines(label, total, stream, time, interval);
  let done = 0;
  let note = '';
  let stopped = false;
  const update = (value: number, text = '') => {
    done = Math.min(value, total);
    note = text;
    if (!stopped) show.update(done, note);
  };
  return {
    tick: (n = 1) => update(done + n, note),
    update,
    stop() {
      if (!stopped) show.stop(done);
      stopped = true;
    },
  };
}

interface Display {
  update(done: number, note: string): void;
  stop(done: number): void;
}

function bar(label: string, total: number, stream: NodeJS.WritableStream, time: Clock): Display {
  // Lines are cut to the terminal by the library; switching the terminal's own wrapping off would outlive Ctrl-C.
  const single = new SingleBar({
    stream,
    format: '{label} {bar} {value}/{total}  {left}{note}',
    barCompleteChar: '━',
    barIncompleteChar: '─',
    barsize: 28,
    fps: 10,
    linewrap: true,
    clearOnComplete: true,
  });
  single.start(total, 0, { label, left: '', note: '' });
  return {
    update: (done, note) => single.update(done, { left: time.left(done), note: note && `  ${note}` }),
    stop: () => single.stop(),
  };
}

function lines(
  label: string,
  total: number,
  stream: NodeJS.WritableStream,
  time: Clock,
  interval: number,
): Display {
  let next = interval;
  let any = false;
  return {
    update(done, note) {
      if (time.elapsed() < next || done === total) return;
      next = time.elapsed() + interval;
      any = true;
      const left = time.left(done);
      stream.write(`${label}: ${done}/${total}${left && `, ${left}`}${note && `, ${note}`}\n`);
    },
    // A short task says nothing; one that began to speak also says that it ended.
    stop(done) {
      if (any) stream.write(`${label}: ${done}/${total} in ${formatDuration(time.elapsed())}\n`);
    },
  };
}

interface Clock {
  elapsed(): number;
  /** "3 min left", or nothing while there is nothing to judge from. */
  left(done: number): string;
}

function clock(total: number, now: () => number): Clock {
  const start = now();
  const elapsed = () => now() - start;
  const left = (done: number) => `${formatDuration((elapsed() / done) * (total - done))} left`;
  return { elapsed, left: (done) => (done > 0 && done < total ? left(done) : '') };
}

/** Milliseconds in words: "0.8 s", "42 s", "3 min 20 s", "2 h 5 min". */
export function formatDuration(milliseconds: number): string {
  if (milliseconds < 9950) return `${(milliseconds / 1000).toFixed(1)} s`;
  const seconds = Math.round(milliseconds / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
