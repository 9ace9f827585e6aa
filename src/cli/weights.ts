/** `cmap weights inspect|convert|verify`: checkpoints of any format, looked at, turned into safetensors, checked. */
import { Command, InvalidArgumentError, Option } from 'commander';
import { formatBytes, InputError } from '../engine/errors.ts';
import { elementCount } from '../formats/array.ts';
import { type Checkpoint, openCheckpoint } from '../formats/checkpoint.ts';
import { elementBytes } from '../formats/elements.ts';
import { readManifest, resolveWeights } from '../formats/manifest.ts';
import {
  compareTensors,
  convertCheckpoint,
  floatTypes,
  groupTensors,
  selectTensors,
  tensorStatistics,
  verifyTensors,
} from '../formats/weights.ts';
import { type Progress, progress } from '../report/progress.ts';
import { formatTable } from '../report/table.ts';
import { checkDistinct, parseNumber } from './options.ts';

export function weightsCommand(): Command {
  return new Command('weights')
    .description('Look at, convert and check checkpoints: safetensors, PyTorch, Flax, .npz.')
    .addCommand(inspectCommand())
    .addCommand(convertCommand())
    .addCommand(verifyCommand());
}

interface Quiet {
  readonly quiet?: boolean;
}

const print = (text: string) => process.stdout.write(`${text}\n`);

/** Opens a checkpoint for `use` and closes it. */
async function withCheckpoint<T>(path: string, use: (checkpoint: Checkpoint) => T | Promise<T>): Promise<T> {
  const checkpoint = await openCheckpoint(path);
  try {
    return await use(checkpoint);
  } finally {
    checkpoint.close();
  }
}

/** Shows progress during `task`, whatever becomes of it. */
function withProgress<T>(label: string, total: number, { quiet }: Quiet, task: (line: Progress) => T): T {
  const line = progress(label, total, { quiet });
  try {
    return task(line);
  } finally {
    line.stop();
  }
}

function parsePattern(text: string): RegExp {
  try {
    return new RegExp(text, 'u');
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
}

function inspectCommand(): Command {
  return new Command('inspect')
    .description('Format, names, types and shapes.')
    .argument('<file>', 'a checkpoint')
    .option('--stats', 'read the numbers too: smallest, largest, mean, spread, how many are not finite')
    .option('--json', 'as JSON')
    .option('-q, --quiet', 'no progress')
    .action((path: string, options: Quiet & { stats?: boolean; json?: boolean }) =>
      withCheckpoint(path, (checkpoint) => {
        const report = withProgress('inspect', checkpoint.names.length, options, (line) =>
          describe(checkpoint, options.stats ? line : null),
        );
        print(options.json ? JSON.stringify(report, null, 2) : formatReport(report));
      }),
    );
}

function describe(checkpoint: Checkpoint, line: Progress | null) {
  const tensors = checkpoint.names.map((name) => {
    const shape = checkpoint.shape(name);
    const statistics = line ? tensorStatistics(checkpoint.array(name).data) : undefined;
    line?.tick();
    return { name, dtype: checkpoint.type(name), shape, elements: elementCount(shape), statistics };
  });
  return {
    file: checkpoint.label,
    format: checkpoint.format,
    elements: tensors.reduce((sum, { elements }) => sum + elements, 0),
    bytes: tensors.reduce((sum, { elements, dtype }) => sum + elements * elementBytes[dtype], 0),
    groups: groupTensors(checkpoint),
    tensors,
    metadata: checkpoint.metadata,
  };
}

function formatReport({
  file,
  format,
  elements,
  bytes,
  groups,
  tensors,
  metadata,
}: ReturnType<typeof describe>) {
  const statistics = tensors.some((tensor) => tensor.statistics);
  const digits = (value: number | null | undefined) => (value == null ? '' : value.toPrecision(4));
  const parts = [
    `${file}: ${format}, ${tensors.length} tensors, ${grouped(elements)} numbers, ${formatBytes(bytes)}`,
    formatTable(
      ['tensor', 'type', 'shape', ...(statistics ? ['min', 'max', 'mean', 'std', 'not finite'] : [])],
      tensors.map(({ name, dtype, shape, statistics: s }) => [
        printable(name),
        dtype,
        `[${shape.join(', ')}]`,
        ...(s ? [digits(s.min), digits(s.max), digits(s.mean), digits(s.std), s.notFinite] : []),
      ]),
    ),
  ];
  if (groups.length > 1) {
    const rows = groups.map((group) => [printable(group.prefix), group.tensors, grouped(group.elements)]);
    parts.push(formatTable(['group', 'tensors', 'numbers'], rows));
  }
  const settings = Object.entries(metadata);
  if (settings.length > 0)
    parts.push(settings.map(([key, value]) => `${printable(key)}: ${printable(value)}`).join('\n'));
  return parts.join('\n\n');
}

/** 269722 -> "269,722". */
function grouped(n: number): string {
  return n.toLocaleString('en-US');
}

/** A file's own text without what would steer a terminal. */
function printable(text: string): string {
  return text.replaceAll(/\p{C}/gu, '\ufffd');
}

interface Selecting extends Quiet {
  readonly prefix?: string;
  readonly drop?: RegExp;
}

function addSelection(command: Command): Command {
  return command
    .option(
      '--prefix <name>',
      'only tensors below this name, which is taken off: state_dict.module, params_ema',
    )
    .option('--drop <regex>', 'leave out tensors whose name matches', parsePattern)
    .option('-q, --quiet', 'no progress');
}

function convertCommand(): Command {
  const command = new Command('convert')
    .description('Write a checkpoint as safetensors, one tensor in memory at a time.')
    .argument('<in>', 'a checkpoint')
    .argument('<out.safetensors>', 'the file to write')
    .addOption(
      new Option('--dtype <type>', 'of floating-point tensors; without it they stay as they are').choices(
        Object.keys(floatTypes),
      ),
    );
  return addSelection(command).action(
    (path: string, out: string, options: Selecting & { dtype?: keyof typeof floatTypes }) => {
      checkDistinct({ '<in>': path }, { '<out>': out });
      return withCheckpoint(path, (checkpoint) => {
        const total = selectTensors(checkpoint, options).size;
        const written = withProgress('convert', total, options, (line) =>
          convertCheckpoint(checkpoint, out, { ...options, onTensor: () => line.tick() }),
        );
        print(`${out}: ${written} of ${checkpoint.names.length} tensors of ${path} (${checkpoint.format})`);
      });
    },
  );
}

function verifyCommand(): Command {
  const command = new Command('verify')
    .description('Read a checkpoint whole: every tensor intact and finite, or the bad one by name.')
    .argument('[file]', 'a checkpoint; without it the shipped weights, by size and SHA-256 too')
    .option('--against <other>', 'a checkpoint that must have the same tensors')
    .option('--tolerance <x>', 'largest difference that passes', parseNumber, 0);
  return addSelection(command).action(
    async (path: string | undefined, options: Selecting & { against?: string; tolerance: number }) => {
      if (!(options.tolerance >= 0))
        throw new InputError(`--tolerance must be a number from 0, got ${options.tolerance}`);
      const { prefix, drop, against } = options;
      if (against === undefined && (prefix !== undefined || drop !== undefined))
        throw new InputError(
          `--${prefix === undefined ? 'drop' : 'prefix'} chooses tensors for --against; without it the file is read whole`,
        );
      if (against === undefined && command.getOptionValueSource('tolerance') === 'cli')
        throw new InputError('--tolerance is of --against; name the file to compare with');
      if (path !== undefined) return verifyFile(path, options);
      if (options.against !== undefined) throw new InputError('--against: name the file to compare it with');
      for (const [name, { kind }] of Object.entries(readManifest())) {
        const shipped = resolveWeights(name);
        await verifyFile(
          shipped.path,
          { ...options, prefix: undefined, drop: undefined },
          `${name} (${kind})`,
        );
      }
    },
  );
}

async function verifyFile(
  path: string,
  options: Selecting & { against?: string; tolerance: number },
  label = path,
): Promise<void> {
  await withCheckpoint(path, async (checkpoint) => {
    const found = withProgress('verify', checkpoint.names.length, options, (line) =>
      verifyTensors(checkpoint, () => line.tick()),
    );
    if (found.tensors === 0) throw new InputError(`${label}: ${checkpoint.format}, holds no tensor`);
    print(
      `${label}: ${checkpoint.format}, ${found.tensors} tensors, ${grouped(found.elements)} numbers, all finite`,
    );
    const { against, tolerance } = options;
    if (against === undefined) return;
    const named = Object.hasOwn(readManifest(), against) ? resolveWeights(against).path : against;
    await withCheckpoint(named, (other) => {
      const differences = withProgress('compare', other.names.length, options, (line) =>
        compareTensors(checkpoint, other, options, () => line.tick()),
      );
      const differing = differences.filter(({ largest }) => largest > tolerance);
      const [worst] = differences;
      const size = worst ? worst.largest.toExponential(2) : '0';
      if (worst && worst.largest > 0) {
        const rows = differences
          .filter(({ largest }) => largest > 0)
          .slice(0, 10)
          .map(({ name, largest, relative }) => [
            printable(name),
            largest.toExponential(2),
            relative.toExponential(2),
          ]);
        print(formatTable(['tensor', 'largest difference', 'relative'], rows));
      }
      if (differing.length > 0) {
        throw new InputError(
          `${path}: ${differing.length} of ${differences.length} tensors differ from ${against}, by up to ${size} in ${JSON.stringify(worst?.name)}; --tolerance allows ${tolerance}`,
        );
      }
      print(
        `${differences.length} tensors equal those of ${against}${tolerance > 0 ? ` within ${tolerance}` : ''}`,
      );
    });
  });
}
