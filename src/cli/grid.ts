/** `cmap grid DIR`: the images of an evaluation, as it stored them: clean, perturbation, adversarial, purified. */
import { join } from 'node:path';
import { Command } from 'commander';
import { fraction } from '../attacks/spec.ts';
import { className } from '../data/labels.ts';
import { InputError } from '../engine/errors.ts';
import { splitAttacks } from '../eval/attacks.ts';
import { readStored, resume } from '../eval/finished.ts';
import { type EvaluationConfig, type EvaluationRecord, keyOf } from '../eval/store.ts';
import { openSafetensors } from '../formats/safetensors.node.ts';
import { writeFileAtomic } from '../report/files.ts';
import { gridToPng } from '../report/grid.ts';
import { anyDataset, type DatasetChoice, dataOption, loadImages, openDataset } from './datasets.ts';
import { type AttackedImage, evaluationGrid } from './figures.ts';
import { parseInteger } from './options.ts';

interface GridFlags {
  readonly attack?: string;
  readonly count?: number;
  readonly images?: string;
  readonly data?: string;
  readonly out?: string;
}

/** Rows when nothing says how many. */
const usual = 8;
/** A picture of more is not looked at, and takes gigabytes to draw. */
const most = 100;

export function gridCommand(): Command {
  return new Command('grid')
    .description('A picture of an evaluation: clean, perturbation, adversarial and purified images.')
    .argument('<dir>', 'folder of cmap eval')
    .option('--attack <list>', 'comma list of its attacks; default all, none shows no attack')
    .option('--count <n>', `the first images, at most ${most}; default ${usual}`, parseInteger)
    .option('--images <list>', 'comma list of their numbers in the test set instead')
    .addOption(dataOption())
    .option('--out <file>', 'where to write; default grid.png in the folder')
    .action(async (folder: string, flags: GridFlags) => {
      const path = flags.out ?? join(folder, 'grid.png');
      if (/\.(jpe?g|svg|gif|webp)$/i.test(path))
        throw new InputError(`--out ${path}: the picture is a PNG; name it .png`);
      writeFileAtomic(path, await picture(folder, flags));
      process.stdout.write(`${path}\n`);
    });
}

async function picture(folder: string, flags: GridFlags): Promise<Uint8Array> {
  const { config, records } = readStored(folder);
  const attacks = chosenAttacks(folder, config, flags.attack);
  const images = chosenImages(folder, config, flags);
  const source = config.source as Partial<DatasetChoice> | undefined;
  if (!source?.dataset || !anyDataset.includes(source.dataset))
    throw new InputError(
      `${join(folder, 'config.json')}: does not say which data set its images are of (source.dataset is ${JSON.stringify(source?.dataset)})`,
    );
  const of: DatasetChoice = { ...(source as DatasetChoice), data: flags.data ?? source.data };
  const { classes } = openDataset(of);
  const loaded = await loadImages(of, images);
  const [, height, width, channels] = loaded.shape;
  const byKey = new Map(records.map((record) => [keyOf(record), record]));
  const find = (image: number, attack: string): EvaluationRecord => {
    const record = byKey.get(keyOf({ image, attack, run: 0 }));
    if (record) return record;
    throw new InputError(
      `${folder}: image ${image} under ${attack} is not evaluated yet; ${resume(folder)} goes on`,
    );
  };
  const stored = new StoredImages(folder, [height, width, channels]);
  const size = height * width * channels;
  const rows = images.map((image, i) => {
    const unattacked = find(image, 'none');
    return {
      clean: loaded.images.subarray(i * size, (i + 1) * size),
      unattacked,
      purified: stored.purified(unattacked),
      attacked: attacks.map((attack) => stored.attacked(find(image, attack))),
    };
  });
  const wrong = rows.find(({ unattacked }, i) => unattacked.label !== loaded.labels[i])?.unattacked;
  if (wrong)
    throw new InputError(
      `${folder}: image ${wrong.image} had label ${wrong.label}, the data set now gives another; name the data it was evaluated on by --data`,
    );
  const grid = evaluationGrid(rows, [height, width, channels], (label) => className(label, classes), {
    title: `${config.defence.name === 'none' ? 'No defence' : config.defence.name}, ${config.classifier.name}`,
    subtitle: `${config.dataset}, ${config.norm} eps ${fraction(config.eps)}${config.runs > 1 ? `, run 1 of ${config.runs}` : ''}${config.evaluations > 1 ? `, judgement 1 of ${config.evaluations}` : ''}`,
    defended: config.defence.name !== 'none',
    attacks,
  });
  return gridToPng(grid);
}

function chosenAttacks(folder: string, config: EvaluationConfig, list: string | undefined): string[] {
  const known = Object.keys(config.attacks);
  const names = list === undefined ? known : splitAttacks(list);
  const strange = names.find((name) => !known.includes(name));
  if (strange !== undefined)
    throw new InputError(
      `--attack ${list}: ${folder} has no attack "${strange}"; it has ${known.join(', ')}`,
    );
  return names.filter((name) => name !== 'none');
}

function chosenImages(folder: string, config: EvaluationConfig, flags: GridFlags): number[] {
  const n = config.images.length;
  if (flags.images === undefined) {
    const { count = Math.min(usual, n) } = flags;
    if (count < 1 || count > Math.min(most, n))
      throw new InputError(
        `--count must be 1 to ${Math.min(most, n)}, got ${count}; ${folder} has ${n} images`,
      );
    return config.images.slice(0, count);
  }
  if (flags.count !== undefined) throw new InputError('--count and --images exclude each other; give one');
  const images = flags.images.split(',').map((text) => (text.trim() === '' ? Number.NaN : Number(text)));
  const strange = images.findIndex((image) => !config.images.includes(image));
  if (strange >= 0)
    throw new InputError(
      `--images ${flags.images}: ${folder} has no image "${flags.images.split(',')[strange]}"; it has ${n}, from ${Math.min(...config.images)} to ${Math.max(...config.images)}`,
    );
  if (images.length > most)
    throw new InputError(`--images: at most ${most} fit a picture, got ${images.length}`);
  return images;
}

/** The pixels that an evaluation stored, a file at a time. */
class StoredImages {
  readonly #files = new Map<string, Pixels>();

  constructor(
    readonly folder: string,
    readonly shape: readonly [number, number, number],
  ) {}

  /** @throws InputError when it is not there, or not of the data set's size */
  attacked(record: EvaluationRecord): AttackedImage {
    const adversarial = this.#row(record, 'adversarial');
    if (adversarial === null)
      throw new InputError(`${this.folder}: image ${record.image} under ${record.attack} was not stored`);
    return { record, adversarial, purified: this.purified(record) };
  }

  /** The K images of one, or null. @throws InputError when they are not of the data set's size */
  purified(record: EvaluationRecord): Float32Array | null {
    return this.#row(record, 'purified');
  }

  #row(
    { file, row, image, attack }: EvaluationRecord,
    tensor: 'adversarial' | 'purified',
  ): Float32Array | null {
    if (file === null) return null;
    const { rows, [tensor]: all } = this.#files.get(file) ?? this.#open(file);
    if (row >= rows)
      throw new InputError(
        `${join(this.folder, file)}: holds ${rows} images, image ${image} under ${attack} should be row ${row}; the file was changed`,
      );
    return all === null ? null : all.subarray((row * all.length) / rows, ((row + 1) * all.length) / rows);
  }

  #open(file: string): Pixels {
    const path = join(this.folder, file);
    const source = openSafetensors(path);
    try {
      const has = (name: string) => source.names.includes(name);
      const names = ['adversarial', 'purified'].filter(has);
      const rows = names[0] === undefined ? 0 : (source.shape(names[0])[0] as number);
      for (const name of names) {
        const shape = source.shape(name);
        if (String(shape.slice(-3)) !== String(this.shape) || shape[0] !== rows)
          throw new InputError(
            `${path}: ${name} has shape [${shape}], wanted ${rows} images of the data set, [${this.shape}]`,
          );
      }
      const found = {
        rows,
        adversarial: has('adversarial') ? source.floats('adversarial') : null,
        purified: has('purified') ? source.floats('purified') : null,
      };
      this.#files.set(file, found);
      return found;
    } finally {
      source.close();
    }
  }
}

interface Pixels {
  readonly rows: number;
  /** [rows, H, W, C] */
  readonly adversarial: Float32Array | null;
  /** [rows, K, H, W, C] */
  readonly purified: Float32Array | null;
}
