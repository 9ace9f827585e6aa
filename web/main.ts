/** The page: one image, PGD on the classifier, CMAP, the vote. Everything is computed by the library in this tab. */
import {
  classify,
  classifyByVote,
  classifyEach,
  Device,
  defaultStepSize,
  type LoadedClassifier,
  type LoadedModel,
  type Preset,
  parseIdx,
  pgd,
  purify,
  ShippedNetworks,
  type Tensor,
  type TraceEntry,
} from '../src/browser.ts';

const dataset = 'fashion-mnist';
/** Test images to choose from. */
const offered = 16;
/** Iterations between two looks at the images. */
const lookEvery = 4;

const element = <T extends Element = HTMLElement>(id: string) => document.getElementById(id) as unknown as T;
const input = (id: string) => element<HTMLInputElement>(id);

interface Picture {
  /** [H, W, C] in [0, 1]. */
  readonly pixels: Float32Array;
  /** Null where nobody knows. */
  readonly label: number | null;
}

interface Session {
  readonly device: Device;
  readonly model: LoadedModel;
  readonly classifier: LoadedClassifier;
  readonly preset: Preset;
}

/** Once the device is lost, that is all there is to say. */
let lost = false;

let stopped = false;

/** Progress, and where a run ends when Stop was pressed. */
function step(text: string): void {
  if (stopped) throw new Error('Stopped.');
  say(text, false, true);
}

/** @param passing of many such lines that a screen reader is not to read out */
function say(text: string, failed = false, passing = false): void {
  if (lost) return;
  const status = element('status');
  status.setAttribute('aria-live', passing ? 'off' : 'polite');
  status.textContent = text;
  status.toggleAttribute('data-failed', failed);
}

async function open(): Promise<Session> {
  const device = await Device.open();
  device.handle.lost.then(({ message }) => {
    say(`The GPU was lost (${message}); reload the page.`, true);
    lost = true;
  });
  say(`${device.adapter.name}: loading the networks …`);
  const shipped = await ShippedNetworks.at('weights/');
  const preset = shipped.preset(dataset);
  const [model, classifier] = await Promise.all([
    shipped.consistencyModel(device, preset.generator),
    shipped.classifier(device, preset.classifier),
  ]);
  return { device, model, classifier, preset };
}

/** The first test images. */
async function testImages(): Promise<Picture[]> {
  const read = async (name: string) => {
    const response = await fetch(`data/fashion-mnist/${name}`);
    if (!response.ok) throw new Error(`${name}: the server answers ${response.status}`);
    let file = await response.blob();
    // Some servers call it an encoding, and the browser has undone it.
    const [first, second] = new Uint8Array(await file.slice(0, 2).arrayBuffer());
    if (first === 0x1f && second === 0x8b)
      file = await new Response(file.stream().pipeThrough(new DecompressionStream('gzip'))).blob();
    return parseIdx(new Uint8Array(await file.arrayBuffer()), name);
  };
  const [images, labels] = await Promise.all([
    read('t10k-images-first1000.idx3-ubyte.gz'),
    read('t10k-labels-first1000.idx1-ubyte.gz'),
  ]);
  const [, height, width] = images.shape as [number, number, number];
  const size = height * width;
  return Array.from({ length: offered }, (_, i) => ({
    pixels: Float32Array.from(images.data.subarray(i * size, (i + 1) * size) as Uint8Array, (v) => v / 255),
    label: labels.data[i] as number,
  }));
}

/** A picture of the user's in the networks' size, gray where they are. */
async function ownPicture(file: File, [height, width, channels]: readonly number[]): Promise<Picture> {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name}: not an image that this browser reads; PNG, JPEG and WebP are.`);
  });
  const canvas = new OffscreenCanvas(width as number, height as number);
  const context = canvas.getContext('2d') as OffscreenCanvasRenderingContext2D;
  // What is transparent lies on white.
  context.fillStyle = '#fff';
  context.fillRect(0, 0, canvas.width, canvas.height);
  // The middle square.
  const side = Math.min(bitmap.width, bitmap.height);
  const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  context.drawImage(bitmap, left, top, side, side, 0, 0, canvas.width, canvas.height);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const pixels = new Float32Array(canvas.width * canvas.height * (channels as number));
  for (let p = 0; p < canvas.width * canvas.height; p++) {
    const rgb = Array.from(data.subarray(4 * p, 4 * p + 3), (v) => v / 255) as [number, number, number];
    if (channels === 3) pixels.set(rgb, 3 * p);
    else pixels[p] = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
  }
  return { pixels, label: null };
}

function draw(canvas: HTMLCanvasElement, pixels: Float32Array, shape: readonly number[]): void {
  const [height, width, channels] = shape as [number, number, number];
  Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  for (let p = 0; p < width * height; p++) {
    for (let c = 0; c < 3; c++)
      image.data[4 * p + c] = 255 * (pixels[p * channels + (c % channels)] as number);
    image.data[4 * p + 3] = 255;
  }
  canvas.getContext('2d')?.putImageData(image, 0, 0);
}

/** MAE and 1 − SSIM by iteration. */
function drawTrace(entries: readonly TraceEntry[]): void {
  const [width, height, left, bottom] = [600, 160, 40, 24];
  const lines = [
    { name: 'MAE', colour: '#28c', values: entries.map((e) => e.mae) },
    { name: '1 − SSIM', colour: '#c62', values: entries.map((e) => 1 - e.ssim) },
  ];
  const top = Math.max(...lines.flatMap(({ values }) => values), 1e-3);
  const x = (i: number) => left + ((width - left - 10) * i) / Math.max(1, entries.length - 1);
  const y = (v: number) => (height - bottom) * (1 - v / top) + 8;
  const parts = lines.flatMap(({ name, colour, values }, n) => [
    `<polyline stroke="${colour}" points="${values.map((v, i) => `${x(i)},${y(v)}`).join(' ')}"/>`,
    `<text x="${left + 90 * n + 10}" y="${height - 4}" style="fill:${colour}">${name}</text>`,
  ]);
  const axis = `<text x="0" y="16">${top.toFixed(2)}</text><text x="0" y="${height - bottom + 8}">0</text>`;
  element('trace').innerHTML =
    `${axis}${parts.join('')}<text x="${width - 110}" y="${height - 4}">${entries.length} iterations</text>`;
}

const settings = () =>
  Object.fromEntries(
    ['eps', 'steps', 'k', 'iterations', 'seed'].map((id) => [id, input(id).valueAsNumber]),
  ) as Record<'eps' | 'steps' | 'k' | 'iterations' | 'seed', number>;

function show(id: string, text: string, right?: boolean): void {
  const output = element<HTMLOutputElement>(id);
  output.value = text;
  output.className = right === undefined ? '' : right ? 'right' : 'wrong';
}

async function run(session: Session, picture: Picture): Promise<void> {
  const made: Tensor[] = [];
  try {
    await attackAndPurify(session, picture, made);
  } finally {
    for (const tensor of made) tensor.dispose();
  }
}

/** @param made what it makes on the device, which lives until it ends, stopped or not */
async function attackAndPurify(
  { device, model, classifier, preset }: Session,
  picture: Picture,
  made: Tensor[],
): Promise<void> {
  const { net, classes } = classifier;
  const shape = net.imageShape;
  const { eps: levels, steps, k, iterations, seed } = settings();
  const eps = levels / 255;
  const x = device.keep(device.tensor(picture.pixels, [1, ...shape]));
  made.push(x);
  const names = (labels: readonly number[]) => labels.map((label) => classes[label]).join(', ');
  say('Classifying; kernels are compiled, once a visit …');
  const before = (await classify(net, x))[0] as number;
  // What nobody knows is what the classifier says of the clean image.
  const truth = picture.label ?? before;
  draw(element('clean'), picture.pixels, shape);
  show('clean-label', names([before]), picture.label === null ? undefined : before === truth);
  element('verdict').textContent = '';

  say('Attacking …');
  const adversarial =
    eps === 0
      ? device.keep(device.tensor(picture.pixels, [1, ...shape]))
      : await pgd(
          net,
          x,
          [truth],
          { eps, steps, stepSize: defaultStepSize('Linf', eps, steps), randomStart: true, seed },
          { onStep: (done, total) => step(`Attacking, step ${done} of ${total} …`) },
        );
  made.push(adversarial);
  const attacked = await adversarial.floats();
  const fooled = (await classify(net, adversarial))[0] as number;
  draw(element('adversarial'), attacked, shape);
  show('adversarial-label', names([fooled]), fooled === truth);
  const scale = eps === 0 ? 0 : 0.5 / eps;
  const perturbation = attacked.map((v, i) => 0.5 + scale * (v - (picture.pixels[i] as number)));
  draw(element('perturbation'), perturbation, shape);
  show('perturbation-label', `at most ${levels}/255`);

  const figures = Array.from({ length: k }, () => {
    const figure = document.createElement('figure');
    figure.append(document.createElement('canvas'), document.createElement('figcaption'));
    const output = document.createElement('output');
    output.setAttribute('aria-live', 'off');
    figure.lastElementChild?.append(output);
    return figure;
  });
  element('purified').replaceChildren(...figures);
  const size = picture.pixels.length;
  const look = async (images: Parameters<typeof classifyEach>[1]) => {
    const [pixels, labels] = [await images.floats(), (await classifyEach(net, images))[0] as number[]];
    figures.forEach((figure, i) => {
      draw(
        figure.querySelector('canvas') as HTMLCanvasElement,
        pixels.subarray(i * size, (i + 1) * size),
        shape,
      );
      const output = figure.querySelector('output') as HTMLOutputElement;
      output.value = classes[labels[i] as number] as string;
      output.className = labels[i] === truth ? 'right' : 'wrong';
    });
  };
  let began = performance.now();
  const purified = await purify(
    model.net,
    adversarial,
    { ...preset.cmap, k, iterations, seed },
    {
      onCompile: (done, total) => {
        step(`Compiling kernels, ${done} of ${total}; once a visit …`);
        began = performance.now();
      },
      onIteration: (done, total) => step(`Purifying, iteration ${done} of ${total} …`),
      looks: { every: lookEvery, at: (_, images) => look(images) },
    },
  );
  made.push(purified.images, purified.latents);
  const seconds = (performance.now() - began) / 1000;
  await look(purified.images);
  const [vote] = await classifyByVote(net, purified.images);
  const trace = purified.trace[0] as TraceEntry[];
  drawTrace(trace);
  const label = vote?.label as number;
  element('verdict').textContent =
    `The vote: ${classes[label]}, ${vote?.votes[label]} of ${k}${label === truth ? '' : `; the image is ${picture.label === null ? 'taken for ' : ''}${classes[truth]}`}.`;
  const last = trace.at(-1) as TraceEntry;
  say(
    `${device.adapter.name}: purified in ${seconds.toFixed(1)} s; MAE ${last.mae.toFixed(4)}, SSIM ${last.ssim.toFixed(4)} at the end.`,
  );
}

async function main(): Promise<void> {
  const session = await open();
  const { classifier, preset } = session;
  const shape = classifier.net.imageShape;
  const pictures = await testImages();
  let chosen: Picture = pictures[0] as Picture;
  const buttons = pictures.map((picture) => {
    const button = Object.assign(document.createElement('button'), { type: 'button' });
    const name = classifier.classes[picture.label as number] as string;
    button.title = name;
    button.setAttribute('aria-label', name);
    const canvas = document.createElement('canvas');
    draw(canvas, picture.pixels, shape);
    button.append(canvas);
    button.addEventListener('click', () => choose(picture, button));
    return button;
  });
  function choose(picture: Picture, button: HTMLButtonElement | null): void {
    chosen = picture;
    for (const other of buttons) other.setAttribute('aria-pressed', String(other === button));
    draw(element('clean'), picture.pixels, shape);
    show('clean-label', picture.label === null ? 'yours' : (classifier.classes[picture.label] as string));
    // What stands there is of another image.
    for (const id of ['adversarial', 'perturbation']) {
      const canvas = element<HTMLCanvasElement>(id);
      canvas.getContext('2d')?.clearRect(0, 0, canvas.width, canvas.height);
      show(`${id}-label`, '');
    }
    for (const id of ['purified', 'trace', 'verdict']) element(id).replaceChildren();
    say(`${session.device.adapter.name}: ready.`);
  }
  element('choices').replaceChildren(...buttons);
  choose(chosen, buttons[0] as HTMLButtonElement);
  input('file').addEventListener('change', async () => {
    const file = input('file').files?.[0];
    // So that the same file may be chosen again.
    input('file').value = '';
    if (file) await alone(async () => choose(await ownPicture(file, shape), null));
  });
  for (const [id, value] of Object.entries({
    eps: Math.round(255 * preset.eps),
    steps: preset.attackSteps,
    k: preset.cmap.k,
    iterations: preset.cmap.iterations,
  }))
    input(id).value = String(value);
  const button = element<HTMLButtonElement>('run');
  const stop = element<HTMLButtonElement>('stop');
  stop.addEventListener('click', () => {
    stopped = true;
  });
  element('settings').addEventListener('submit', (event) => {
    event.preventDefault();
    alone(() => run(session, chosen));
  });
  /** Nothing else can be started meanwhile; what had the focus has it again. */
  async function alone(f: () => Promise<void>): Promise<void> {
    const focused = document.activeElement as HTMLElement | null;
    const busy = (yes: boolean) => {
      for (const control of [button, input('file'), ...buttons]) control.disabled = yes;
    };
    stopped = false;
    busy(true);
    stop.hidden = false;
    await attempt(f);
    stop.hidden = true;
    busy(false);
    if (document.activeElement === document.body) focused?.focus();
  }
  button.disabled = false;
  say(`${session.device.adapter.name}: ready.`);
}

/** A failure is shown where the status stands. */
async function attempt(f: () => Promise<void>): Promise<void> {
  try {
    await f();
  } catch (error) {
    say((error as Error).message, true);
    console.error(error);
  }
}

await attempt(main);
