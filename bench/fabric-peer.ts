/** The other thread of bench/fabric.ts: its half of every job. @module */
import { workerData } from 'node:worker_threads';
import { serveJobs } from './fabric-duo.ts';
import { sendToActor, sendToHost, takeFrames, takeIntoNpu } from './fabric-messages.ts';
import { readSlots } from './fabric-slots.ts';
import { computeUntilStopped } from './fabric-stop.ts';
import { takeMessages } from './fabric-streams.ts';
import { answerAwake, answerTrips } from './fabric-trips.ts';

serveJobs(workerData, { readSlots, takeMessages, takeFrames, takeIntoNpu, sendToActor, sendToHost, answerTrips, answerAwake, computeUntilStopped });
