/** The other thread of bench/xccl.ts: its half of every job. @module */
import { workerData } from 'node:worker_threads';
import { serveJobs } from './fabric-duo.ts';
import { exchangeTokens, openRanks } from './xccl-all-to-all.ts';
import { openDies } from './xccl-dies.ts';
import { exchangeEnds, openEnds } from './xccl-trampoline.ts';
import { countLeases, receiveMessages } from './xccl-transfers.ts';

serveJobs(workerData, { openDies, receiveMessages, countLeases, openRanks, exchangeTokens, openEnds, exchangeEnds });
