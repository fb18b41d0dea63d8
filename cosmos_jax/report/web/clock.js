// All videos on the page run on one clock: they start together from the same time, and one that
// drifts is nudged back by its speed, or set back where it is far off.

const NUDGE = 0.015; // seconds of drift that are left alone
const JUMP = 0.25; // seconds of drift that are set back at once

class Clock {
  /** `changed(time, length, playing)` is called when one of them is another. */
  constructor(changed) {
    Object.assign(this, { changed, videos: [], time: 0, speed: 1, playing: false, turn: 0 });
  }

  get length() {
    return Math.max(0, ...this.usable().map((video) => video.duration));
  }

  usable() {
    return this.videos.filter((video) => Number.isFinite(video.duration) && !video.error);
  }

  /** Takes over other videos, at the same time and still playing where it was. */
  async show(videos) {
    for (const video of this.videos.filter((one) => !videos.includes(one))) {
      video.pause();
      video.removeAttribute("src"); // lets go of the file
      video.load();
    }
    this.videos = videos;
    const turn = ++this.turn;
    await Promise.all(videos.map((video) => known(video)));
    if (turn !== this.turn) return;
    this.time = Math.min(this.time, this.length);
    await (this.playing ? this.play() : this.seek(this.time));
  }

  /** Stops all, and puts all at one time. False where something else was asked for meanwhile. */
  async seek(time) {
    const turn = ++this.turn;
    await Promise.all(this.videos.map((video) => known(video)));
    if (turn !== this.turn) return false;
    this.time = Math.min(Math.max(time, 0), this.length);
    this.tell();
    await Promise.all(this.usable().map((video) => place(video, this.time)));
    return turn === this.turn;
  }

  async play() {
    this.playing = true;
    const from = this.time >= this.length - 0.02 ? 0 : this.time;
    if (!(await this.seek(from))) return;
    const turn = this.turn;
    const videos = this.usable();
    for (const video of videos) video.playbackRate = this.speed;
    await Promise.allSettled(videos.map((video) => video.play()));
    if (turn !== this.turn || !videos.length) return;
    const leader = videos.reduce((a, b) => (b.duration > a.duration ? b : a));
    const tick = () => {
      if (turn !== this.turn) return;
      if (leader.ended) {
        this.time = this.length;
        this.play();
        return;
      }
      this.time = leader.currentTime;
      for (const video of videos) if (video !== leader) this.align(video);
      this.tell();
      requestAnimationFrame(tick);
    };
    tick();
  }

  /** Brings a running video back to the clock's time. */
  align(video) {
    if (this.time >= video.duration || video.seeking) return;
    const ahead = video.currentTime - this.time;
    if (Math.abs(ahead) > JUMP) video.currentTime = this.time;
    const correction = Math.abs(ahead) > NUDGE ? Math.min(Math.max(ahead * 4, -0.4), 0.4) : 0;
    const rate = this.speed * (1 - correction);
    if (Math.abs(video.playbackRate - rate) > 0.01) video.playbackRate = rate;
  }

  async pause() {
    this.playing = false;
    await this.seek(this.time);
  }

  async setSpeed(speed) {
    this.speed = speed;
    if (this.playing) await this.play();
  }

  async jump(time) {
    this.time = time;
    await (this.playing ? this.play() : this.seek(time));
  }

  tell() {
    this.changed(this.time, this.length, this.playing);
  }
}

/** Waits until a video's length is known, or known not to be. */
function known(video) {
  if (video.readyState >= 1 || video.error) return Promise.resolve();
  return new Promise((done) => {
    video.addEventListener("loadedmetadata", done, { once: true });
    video.addEventListener("error", done, { once: true });
    video.addEventListener("emptied", done, { once: true });
  });
}

/** Stops a video at a time, and waits until it is there. */
function place(video, time) {
  video.pause();
  const wanted = Math.min(time, Math.max(video.duration - 0.001, 0));
  if (!video.seeking && Math.abs(video.currentTime - wanted) < 0.001) return Promise.resolve();
  return new Promise((done) => {
    for (const name of ["seeked", "error", "emptied"]) {
      video.addEventListener(name, done, { once: true });
    }
    video.currentTime = wanted;
  });
}
