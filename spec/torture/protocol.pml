/* The protocol of lock and publication (DESIGN: one id, any number of processes), for the model checker spin.
 *
 * One step here is one system call there. Every process may be killed before each of its steps, CRASHES
 * of them altogether. A waiter does not poll here: it blocks until what it looks for is so.
 *
 * What must hold:
 *   alone       no two of our processes build at once, unless somebody took a lock's name away
 *   needed      nobody builds what is there, unless he refreshes
 *   whole       nobody gets a partial entry
 *   immutable   a published entry is never replaced but by a refresh; a killed Python's short file is
 *   own         a refresh publishes what it built: nobody else's .new
 *   release     nobody removes the name of a lock that a live builder holds
 *   dead        a Python lock is taken over only if its maker is dead
 *   awake       nobody waits for ever: no end of a run but that of all processes, and no endless loop
 *   clean       when all are gone, one list leaves neither lock nor .new
 *
 * Of time there are two assumptions, as in the core. A live Python process that has closed its lock
 * unlinks it before anybody looks a second time (60 ms). And nothing of Python's comes between two calls
 * that the core makes back to back: its look at the lock's name, and what it does because of it. With
 * -DBETWEEN Python's free comes there too; `immutable`, `alone` and `release` can then not be kept, all others are.
 *
 * Each -D below that begins with NO_ leaves a step of the protocol out: spin must find what breaks. */

#ifndef BUILDERS
#define BUILDERS 2
#endif
#ifndef REFRESHERS
#define REFRESHERS 0
#endif
#ifndef FREERS
#define FREERS 0
#endif
#ifndef SWEEPERS
#define SWEEPERS 0
#endif
#ifndef PYTHONS
#define PYTHONS 0
#endif
#ifndef PYTHON_FREERS
#define PYTHON_FREERS 0
#endif
#ifndef CRASHES
#define CRASHES 1
#endif

#define INODES 8 /* of locks: 1 to 7, 0 is none */
#define NOBODY 0
#define MOST 9 /* processes */

mtype = { ABSENT, SHORT, FULL };

mtype entry = ABSENT;
bit python_writes;         /* the entry is the file that Python has open */
byte fresh;                /* who made .new; 0: there is none */
bit fresh_held;            /* and holds its lock */
byte lock_name;            /* the inode under the lock's name */
byte holder[INODES];       /* who has it locked */
byte users[INODES];        /* how many have it open, or remember it: its number is not used again */
bit python[INODES];         /* made by Python */
bit opened[INODES];        /* by its maker, Python: no lease is granted */
bit maker_dead[INODES];
byte ours;                 /* how many of ours are not gone */
byte killed;               /* who dies instead of taking another step */
byte building;             /* how many of ours are at it */
bit seized;                /* a lock's name was taken away by Python's free */
byte between;              /* how many of ours are between two calls made back to back */
bit alive[MOST + 1];

#ifdef BETWEEN
#define ONLY_IF_ADJACENT(x) true
#define quiet true
#else
#define ONLY_IF_ADJACENT(x) (x)
#define quiet (between == 0)
#endif

inline new_inode(i) {
  i = 1;
  do
  :: i < INODES && (users[i] || lock_name == i) -> i++
  :: else -> break
  od;
  assert(i < INODES);
  users[i] = 1; holder[i] = NOBODY; python[i] = 0; opened[i] = 0; maker_dead[i] = 0
}

/* close(2): what was locked through it is unlocked. */
inline close_lock(i) {
  if
  :: i -> users[i]--; if :: holder[i] == _pid -> holder[i] = NOBODY :: else fi; i = 0
  :: else
  fi
}

inline forget(i) {
  if :: i -> users[i]--; i = 0 :: else fi
}

/* What the kernel does for the killed. */
inline die() {
  killed = NOBODY;
  alive[_pid] = 0;
  if :: is_building -> building--; is_building = 0 :: else fi;
  if :: is_between -> between--; is_between = 0 :: else fi;
  if :: fresh == _pid -> fresh_held = 0 :: else fi;
  close_lock(fd);
  forget(suspect);
  if :: is_ours -> ours-- :: else fi
}

/* Whether a look at the lock's name would bring something new. */
#define lock_moved \
  (lock_name == 0 || (holder[lock_name] == NOBODY && !opened[lock_name] && \
                      (suspect != lock_name || maker_dead[lock_name])))

mtype = { HELD, FREE, LIVE, AGAIN };

/* sa_lock_look(): `result` and, for HELD, `fd`. */
inline look_at_lock() {
  result = AGAIN;
  do
  :: result == AGAIN ->
     atomic { fd = lock_name; if :: fd -> users[fd]++ :: else -> result = FREE fi };
     if
     :: fd ->
        atomic {
          if
          :: holder[fd] == NOBODY -> holder[fd] = _pid
          :: else -> close_lock(fd); result = LIVE
          fi
        };
        if
        :: fd ->
           atomic {
#ifndef NO_COMPARISON
             if
             :: lock_name != fd -> close_lock(fd)
             :: else ->
#endif
                if
                :: !python[fd] -> result = HELD
                :: python[fd] && opened[fd] -> close_lock(fd); result = LIVE
#ifndef NO_SECOND_LEASE
                :: python[fd] && !opened[fd] && suspect != fd ->
                   forget(suspect); suspect = fd; users[suspect]++; close_lock(fd); result = LIVE
                :: python[fd] && !opened[fd] && suspect == fd ->
                   if
                   :: maker_dead[fd] -> forget(suspect); result = HELD
                   :: else -> close_lock(fd); result = LIVE /* too early for a second look */
                   fi
#else
                :: python[fd] && !opened[fd] -> assert(maker_dead[fd]); result = HELD
#endif
                fi
#ifndef NO_COMPARISON
             fi
#endif
           }
        :: else
        fi
     :: else
     fi
  :: else -> break
  od
}

/* sa_file_bury(): .new, unless its maker lives. */
inline bury_fresh() {
#ifdef NO_BURIAL
  skip
#else
  atomic {
    if
#ifdef NO_FRESH_LOCK
    :: fresh -> fresh = 0
#else
    :: fresh && !fresh_held -> fresh = 0
#endif
    :: else
    fi
  }
#endif
}

/* sa_lock_take(): HELD or LIVE. */
inline take_lock() {
  do
  :: look_at_lock();
     if
     :: result == HELD ->
#ifdef NO_INHERITANCE
        close_lock(fd);
        result = LIVE;
#else
        python[fd] = 0; /* its line is written */
        bury_fresh();
#endif
        break
     :: result == LIVE -> break
     :: result == FREE ->
#ifdef NO_BORN_LOCKED
        atomic { if :: lock_name == 0 -> new_inode(fd); lock_name = fd; result = HELD :: else fi };
        if
        :: result == HELD -> if :: holder[fd] == NOBODY -> holder[fd] = _pid :: else fi; break
        :: else
        fi
#else
        atomic {
          if
          :: lock_name == 0 -> new_inode(fd); lock_name = fd; holder[fd] = _pid; result = HELD; break
          :: else /* EEXIST */
          fi
        }
#endif
     fi
  od
}

/* sa_lock_release() */
inline release_lock() {
  atomic { is_between = 1; between++ };
#ifdef NO_CARE_AT_RELEASE
  if
  :: fd ->
#else
  if
  :: fd && lock_name == fd ->
#endif
     atomic {
       assert(ONLY_IF_ADJACENT(lock_name == 0 || holder[lock_name] == NOBODY || holder[lock_name] == _pid));
       lock_name = 0
     }
  :: else
  fi;
  atomic { is_between = 0; between--; close_lock(fd) }
}

inline start_building() {
  building++;
  is_building = 1;
  assert(ONLY_IF_ADJACENT(building == 1 || seized));
  assert(refresh || entry != FULL)
}

inline stop_building() {
  if :: is_building -> building--; is_building = 0 :: else fi
}

/* sharearray_attach() until it is READY or BUILD, then the build and sharearray_publish(). */
proctype Builder(bit refresh) {
  byte fd = 0, suspect = 0;
  mtype result = AGAIN;
  bit replace = refresh, anew = 0, look = 0, is_building = 0, is_between = 0, is_ours = 1;
  alive[_pid] = 1;
  {
    skip;
attach:
    if
    :: !refresh && entry == FULL ->
       look_at_lock(); /* a dead one beside it would hold up Python for ever */
       if
       :: result == HELD -> bury_fresh(); release_lock(); goto over
       :: result == LIVE && suspect && lock_name == suspect -> lock_moved; goto attach
       :: else -> goto over
       fi
    :: else
    fi;
    take_lock();
    if
    :: result == LIVE ->
       (lock_moved || (!refresh && entry == FULL));
       if
       :: goto attach
       :: !refresh && entry == FULL -> goto over /* sharearray_await(): by the page the lock is gone. Pages may lie */
       fi
    :: else
    fi;
    atomic {
      if
#ifndef NO_SECOND_LOOK
      :: !refresh && entry == FULL -> goto give_back
#endif
      :: else -> replace = refresh || entry == SHORT; start_building()
      fi
    };
    if
    :: true
    :: true -> atomic { stop_building(); goto give_back } /* fn raised */
    fi;
#ifndef NO_LOOK_BEFORE_REPLACING
    look = replace && !refresh;
#endif

publish:
    /* Between the look at the lock's name and the name of the data nothing of Python's comes. */
    atomic {
      is_between = 1; between++;
#ifdef NO_LOOK_AT_PUBLICATION
      anew = (fd == 0)
#else
      anew = (fd == 0 || lock_name != fd)
#endif
    };
    if
    :: anew ->
       atomic { is_between = 0; between--; stop_building(); close_lock(fd) };
       take_lock();
       if
       :: result == LIVE -> lock_moved; goto publish
       :: else -> look = 1; goto publish
       fi
    :: else
    fi;
    if
    :: look && !refresh ->
       atomic {
         if
         :: entry == FULL -> is_between = 0; between--; stop_building(); goto give_back /* somebody else's */
         :: entry == SHORT -> replace = 1
         :: else
         fi
       }
    :: else
    fi;
    if
    :: !replace ->
       atomic {
#ifdef NO_EXCLUSIVE_LINK
         assert(entry != FULL); /* immutable */
         entry = FULL; python_writes = 0
#else
         if
         :: entry == ABSENT -> entry = FULL; python_writes = 0
         :: else -> look = 1; is_between = 0; between--; goto publish /* EEXIST */
         fi
#endif
       }
    :: else ->
       bury_fresh();
       atomic {
         if
         :: fresh == 0 -> fresh = _pid; fresh_held = 1
         :: else -> is_between = 0; between--; look = 1; fresh == 0 || !fresh_held; goto publish
         fi
       };
       atomic {
         assert(fresh == _pid);                                  /* own */
         assert(ONLY_IF_ADJACENT(refresh || entry != FULL));     /* immutable */
         fresh = 0; entry = FULL; python_writes = 0
       }
    fi;
    atomic { is_between = 0; between--; stop_building() };
give_back:
    release_lock();
over:
    atomic { forget(suspect); alive[_pid] = 0; ours-- }
  } unless { atomic { killed == _pid -> die() } }
}

/* sharearray_remove() */
proctype Freer() {
  byte fd = 0, suspect = 0;
  mtype result = AGAIN;
  bit is_building = 0, is_between = 0, is_ours = 1;
  alive[_pid] = 1;
  {
    atomic { entry = ABSENT; python_writes = 0 };
    look_at_lock();
    if
    :: result == HELD -> bury_fresh(); release_lock()
    :: else
    fi;
    atomic { forget(suspect); alive[_pid] = 0; ours-- }
  } unless { atomic { killed == _pid -> die() } }
}

/* sharearray_sweep(), again until nothing needs a second look. */
proctype Sweeper() {
  byte fd = 0, suspect = 0;
  mtype result = AGAIN;
  bit is_building = 0, is_between = 0, is_ours = 1;
  alive[_pid] = 1;
  {
    do
    :: look_at_lock();
       if
       :: result == HELD -> bury_fresh(); release_lock(); break
       :: result == LIVE && suspect && lock_name == suspect -> lock_moved
       :: else -> break
       fi
    od;
    if
    :: fresh ->
#ifdef NO_LOCK_FOR_SWEEPING
       fresh = 0
#else
       take_lock();
       if
       :: result == HELD -> bury_fresh(); release_lock()
       :: else
       fi
#endif
    :: else
    fi;
    atomic { forget(suspect); alive[_pid] = 0; ours-- }
  } unless { atomic { killed == _pid -> die() } }
}

/* The Python package's cache(), as an ordinary user: it cannot write to what we published. */
proctype Python() {
  byte fd = 0, suspect = 0, made = 0;
  bit is_building = 0, is_between = 0, is_ours = 0;
  alive[_pid] = 1;
  {
    atomic {
      if
      :: lock_name == 0 -> new_inode(made); lock_name = made; python[made] = 1; opened[made] = 1
      :: else
      fi
    };
    if
    :: made == 0 -> (lock_name == 0 || ours == 0) /* polls; none of ours will come any more */
    :: else ->
       if
       :: entry == ABSENT ->
          atomic {
            if
            :: entry != FULL -> entry = SHORT; python_writes = 1
            :: else /* EACCES */
            fi
          };
          atomic { quiet -> if :: python_writes && entry == SHORT -> entry = FULL; python_writes = 0 :: else fi }
       :: else
       fi;
       opened[made] = 0;
       atomic { quiet -> users[made]--; made = 0; lock_name = 0 }
    fi;
    atomic { alive[_pid] = 0 }
  } unless {
    atomic {
      killed == _pid ->
      if
      :: made -> opened[made] = 0; maker_dead[made] = 1; users[made]--; python_writes = 0; made = 0
      :: else
      fi;
      die()
    }
  }
}

/* The Python package's free(): both, by their names. */
proctype PythonFreer() {
  atomic { quiet -> if :: lock_name -> lock_name = 0; seized = 1 :: else fi };
  atomic { entry = ABSENT; python_writes = 0 }
}

/* kill -9 */
proctype Killer() {
  byte left = CRASHES, victim;
  do
  :: left && killed == NOBODY ->
     atomic {
       victim = 1;
       do
       :: victim < MOST -> victim++
       :: alive[victim] -> killed = victim; left--; break
       :: victim == MOST -> goto over
       od
     }
  :: break
  od;
over:
  skip
}

#define START(count, process) i = 0; do :: i < count -> run process; i++ :: else -> break od

init {
  byte i;
  atomic {
    ours = BUILDERS + REFRESHERS + FREERS + SWEEPERS;
    START(BUILDERS, Builder(0));
    START(REFRESHERS, Builder(1));
    START(FREERS, Freer());
    START(SWEEPERS, Sweeper());
    START(PYTHONS, Python());
    START(PYTHON_FREERS, PythonFreer());
    run Killer()
  };
  (_nr_pr == 1);
  ours = 1;
  run Sweeper();
  (_nr_pr == 1);
  assert(lock_name == 0 && fresh == 0 && building == 0)
}
