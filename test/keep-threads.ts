/** Before each test file of those that share a process. */
import { keepThreads } from './resident-threads.ts';

keepThreads();
